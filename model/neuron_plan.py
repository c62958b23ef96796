"""Whether NxD Inference's model can be built of the packed blocks, from its configuration alone.

The answer holds for all graphs and for the converter of the checkpoint, since all of them have the
same weights.
"""

from __future__ import annotations

from typing import Any

from model import plan
from model.packing import Shard

PATH = plan.NEURON_PATHS[0]

# Settings of the NeuronConfig, and the one value that the layers implement. What a release of NxDI
# does not know is as if it had that value.
NEEDED = {
    "batch_size": 1,
    "max_batch_size": 1,
    "kv_cache_batch_size": 1,
    "padding_side": "right",
    "pp_degree": 1,
    "ep_degree": 1,
    "cp_degree": 1,
    "moe_ep_degree": 1,
    "attention_dp_degree": 1,
}
# Settings that must be off: other cuts of the work, other caches, more than a token per step, other
# weights, and kernels of NxDI that somebody chose for a part of a layer.
OFF = (
    "sequence_parallel_enabled", "vocab_parallel", "layer_boundary_markers",
    "flash_decoding_enabled", "kv_cache_tiling", "kv_cache_quant", "kv_quant_config",
    "is_block_kv_layout", "is_prefix_caching", "is_chunked_prefill", "is_continuous_batching",
    "apply_seq_ids_mask", "windowed_context_encoding_size",
    "speculation_length", "medusa_speculation_length", "is_medusa", "is_eagle_draft", "is_eagle3",
    "enable_fused_speculation", "enable_eagle_speculation",
    "quantized", "lora_config", "attention_dtype",
    "qkv_kernel_enabled", "qkv_kernel_fuse_residual_add", "qkv_cte_nki_kernel_fuse_rope",
    "attn_block_tkg_nki_kernel_enabled", "attn_block_cte_nki_kernel_enabled",
    "attn_tkg_builtin_kernel_enabled", "attn_tkg_nki_kernel_enabled",
    "moe_fused_nki_kernel_enabled",
)  # fmt: skip


def why_not_layered(config: Any) -> list[str]:
    """Every reason why NxD Inference's model cannot take the layered path; none: it does.

    `config` is NxD Inference's configuration of the model. ValueError for an unknown path.
    """
    settings = config.neuron_config
    asked = getattr(settings, "nki_kernel_path", PATH)
    if asked not in plan.NEURON_PATHS:
        known = ", ".join(plan.NEURON_PATHS)
        raise ValueError(f"nki_kernel_path: received {asked!r}; use one of {known}")
    if asked != PATH:
        return [f"nki_kernel_path is {asked!r}"]
    reasons = [
        f"{name} is {getattr(settings, name)!r}, the layers take {value!r}"
        for name, value in NEEDED.items()
        if getattr(settings, name, value) not in (value, None)
    ]
    reasons += [
        f"{name} is {getattr(settings, name)!r}, the layers have nothing like it"
        for name in OFF
        if getattr(settings, name, None)
    ]
    return reasons + _why_not_model(config)


def _why_not_model(config: Any) -> list[str]:
    settings = config.neuron_config
    ranks = int(settings.tp_degree)
    dtype = str(settings.torch_dtype).removeprefix("torch.")
    architecture = plan.why_not_supported(config) or Shard(0, ranks).why_not(config)
    if architecture is not None:
        return [architecture]
    capacities = {settings.seq_len, *(getattr(settings, "token_generation_buckets", None) or ())}
    prompts = getattr(settings, "context_encoding_buckets", None) or [
        getattr(settings, "max_context_length", None) or settings.seq_len
    ]
    found = [
        *plan.choose(PATH, config, dtype, ranks).fallbacks,
        *(plan.why_not_capacity(capacity, config) for capacity in sorted(capacities)),
        plan.why_not_prompt(max(prompts), config, dtype, ranks),
    ]
    return [f"{each.kernel}: {each.reason}" for each in found if each is not None]
