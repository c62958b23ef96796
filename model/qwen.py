"""The baseline for the challenge's driver: NxD Inference's own Qwen3-MoE, unchanged.

The names are the driver's contract; all of them are NxD Inference's objects, so that nothing here
can differ from the reference against which the model with kernels is scored.
"""

from neuronx_distributed_inference.models.qwen3_moe.modeling_qwen3_moe import (
    NeuronQwen3MoEAttention,
    NeuronQwen3MoeDecoderLayer,
    NeuronQwen3MoeForCausalLM,
    NeuronQwen3MoeModel,
    Qwen3MoeInferenceConfig,
)

__all__ = [
    "NeuronQwen3MoEAttention",
    "NeuronQwen3MoeDecoderLayer",
    "NeuronQwen3MoeForCausalLM",
    "NeuronQwen3MoeModel",
    "Qwen3MoeInferenceConfig",
]
