"""The double of NxD Inference's Qwen3-MoE."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neuronx_distributed_inference.models import config as configs
from neuronx_distributed_inference.models.layer_boundary_marker import (
    ModuleMarkerEndWrapper,
    ModuleMarkerStartWrapper,
)
from neuronx_distributed_inference.models.model_base import NeuronBaseForCausalLM, NeuronBaseModel
from neuronx_distributed_inference.modules.attention.attention_base import NeuronAttentionBase
from neuronx_distributed_inference.modules.attention.utils import RotaryEmbedding
from neuronx_distributed_inference.modules.moe_v2 import initialize_moe_module

REQUIRED = """head_dim hidden_act hidden_size max_position_embeddings moe_intermediate_size
norm_topk_prob num_attention_heads num_experts num_experts_per_tok num_hidden_layers
num_key_value_heads rms_norm_eps rope_scaling rope_theta tie_word_embeddings vocab_size"""


class Qwen3MoeRMSNorm(nn.Module):
    """As in transformers, which NxD Inference takes on the CPU; importing that is slow."""

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        wide = hidden_states.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * normed.to(hidden_states.dtype)


class Qwen3MoeInferenceConfig(configs.InferenceConfig):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.num_local_experts, self.n_shared_experts = self.num_experts, 0
        if self.neuron_config.moe_fused_nki_kernel_enabled:
            self.moe_fused_nki_kernel_enabled = True
        self.intermediate_size = self.moe_intermediate_size
        self.neuron_config.normalize_top_k_affinities = True

    def get_required_attributes(self) -> list[str]:
        return REQUIRED.split()

    @classmethod
    def get_neuron_config_cls(cls) -> type[configs.MoENeuronConfig]:
        return configs.MoENeuronConfig


class NeuronQwen3MoEAttention(NeuronAttentionBase):
    def __init__(self, config: Any) -> None:
        super().__init__(
            config=config,
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            rotary_emb=RotaryEmbedding(
                config.head_dim, config.max_position_embeddings, config.rope_theta
            ),
            rms_norm_eps=config.rms_norm_eps,
            use_qk_norm=False,
        )
        self.q_layernorm = Qwen3MoeRMSNorm(self.head_dim, self.rms_norm_eps)
        self.k_layernorm = Qwen3MoeRMSNorm(self.head_dim, self.rms_norm_eps)
        self.rank_util = nn.Module()
        ranks = torch.zeros(config.neuron_config.tp_degree, dtype=torch.int32)
        self.rank_util.rank = nn.Parameter(ranks, requires_grad=False)


class NeuronQwen3MoeDecoderLayer(nn.Module):
    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = NeuronQwen3MoEAttention(config=config)
        self.moe_fused_nki_kernel_enabled = getattr(config, "moe_fused_nki_kernel_enabled", False)
        self.input_layernorm = Qwen3MoeRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = Qwen3MoeRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        fused = {"rmsnorm": self.post_attention_layernorm, "init_tkg_module": True}
        self.mlp = initialize_moe_module(
            config=config, **(fused if self.moe_fused_nki_kernel_enabled else {})
        )

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_value: Any = None,
        padding_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        residual = hidden_states
        hidden_states = self.input_layernorm(ModuleMarkerStartWrapper()(hidden_states))
        hidden_states, present, cos, sin = self.self_attn(
            hidden_states=hidden_states,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_value=past_key_value,
            rmsnorm=None,
            **kwargs,
        )
        residual = residual + hidden_states
        hidden_states = residual
        if not self.moe_fused_nki_kernel_enabled:
            hidden_states = self.post_attention_layernorm(hidden_states)
        hidden_states = residual + self.mlp(hidden_states, padding_mask)[0]
        return ModuleMarkerEndWrapper()(hidden_states), present, cos, sin, None


class NeuronQwen3MoeModel(NeuronBaseModel):
    def setup_attr_for_model(self, config: Any) -> None:
        self.hidden_size = config.hidden_size

    def init_model(self, config: Any) -> None:
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            NeuronQwen3MoeDecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = Qwen3MoeRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)


class NeuronQwen3MoeForCausalLM(NeuronBaseForCausalLM):
    _model_cls = NeuronQwen3MoeModel

    @classmethod
    def get_config_cls(cls) -> Any:
        return Qwen3MoeInferenceConfig

    @staticmethod
    def convert_hf_to_neuron_state_dict(state_dict: dict[str, Tensor], config: Any) -> Any:
        """The stock converter is not doubled: the one of the model with kernels stands in."""
        from model import neuron_state

        return neuron_state.convert(state_dict, config)

    def get_compiler_args(self) -> str:
        return "--auto-cast=none -O1"
