"""The double of NxD Inference's configurations: strict about keywords."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from typing import Any

import torch
from neuronx_distributed import release

CONFIG_FILE = "neuron_config.json"
DEFAULTS: dict[str, Any] = {
    "batch_size": 1,
    "seq_len": 128,
    "max_context_length": None,
    "torch_dtype": torch.bfloat16,
    "tp_degree": 1,
    "logical_nc_config": 2,
    "rpl_reduce_dtype": None,
    "attention_dtype": None,
    "attn_kernel_enabled": None,
    "on_device_sampling_config": None,
    "scratchpad_page_size": None,
    "max_length": None,
    "n_active_tokens": None,
    "context_encoding_buckets": None,
    "token_generation_buckets": None,
    "padding_side": "right",
    "pad_token_id": 0,
    "cc_pipeline_tiling_factor": 2,
    "cast_type": "config",
}
SWITCHES = (
    "on_cpu",
    "output_logits",
    "async_mode",
    "fused_qkv",
    "enable_bucketing",
    "sequence_parallel_enabled",
    "layer_boundary_markers",
    "flash_decoding_enabled",
    "is_prefix_caching",
    "enable_fused_speculation",
    "k_cache_transposed",
    "qkv_kernel_enabled",
    "qkv_kernel_fuse_residual_add",
    "qkv_cte_nki_kernel_fuse_rope",
    "attn_block_tkg_nki_kernel_enabled",
    "moe_fused_nki_kernel_enabled",
)
SWITCHES_UNTIL_2_28 = (
    "attn_tkg_builtin_kernel_enabled",
    "attn_tkg_nki_kernel_enabled",
    "attn_block_cte_nki_kernel_enabled",
)
MOE_DEFAULTS: dict[str, Any] = {
    "glu_type": "glu",
    "hidden_act_scaling_factor": 1.0,
    "hidden_act_bias": 0.0,
    "early_expert_affinity_modulation": False,
    "moe_mask_padded_tokens": False,
    "moe_tp_degree": 1,
    "moe_ep_degree": 1,
}
if release.since("2.28"):
    SHARD_ON_INTERMEDIATE_DIMENSION_PER_TP = 256
else:
    SHARD_ON_INTERMEDIATE_DIMENTION_PER_TP = 256


class RouterConfig:
    def __init__(self) -> None:
        self.dtype, self.act_fn = torch.float32, "softmax"


class OnDeviceSamplingConfig:
    def __init__(self, **kwargs: Any) -> None:
        self.do_sample = kwargs.pop("do_sample", False)
        self.top_k = kwargs.pop("top_k", 1)
        self.top_p = kwargs.pop("top_p", 1.0)
        self.temperature = kwargs.pop("temperature", 1.0)
        self.dynamic = kwargs.pop("dynamic", False)
        self.global_topk = kwargs.pop("global_topk", 256)
        _refuse(type(self), kwargs)


class NeuronConfig:
    def __init__(self, **kwargs: Any) -> None:
        switches = SWITCHES + (() if release.since("2.29") else SWITCHES_UNTIL_2_28)
        for name, default in (DEFAULTS | dict.fromkeys(switches, False)).items():
            setattr(self, name, kwargs.pop(name, default))
        if isinstance(self.on_device_sampling_config, dict):
            self.on_device_sampling_config = OnDeviceSamplingConfig(
                **self.on_device_sampling_config
            )
        self.is_prefill_stage = None
        self.max_length = self.max_length or self.seq_len
        self.max_context_length = self.max_context_length or self.seq_len
        self.n_positions = self.seq_len
        self.max_batch_size = self.batch_size
        self.buckets = generate_buckets(128, self.seq_len)
        if not self.enable_bucketing:
            self.buckets = [self.seq_len]
        _refuse(type(self), kwargs)


class MoENeuronConfig(NeuronConfig):
    def __init__(
        self, capacity_factor: float | None = None, glu_mlp: bool = True, **kwargs: Any
    ) -> None:
        self.capacity_factor, self.glu_mlp = capacity_factor, glu_mlp
        for name, default in MOE_DEFAULTS.items():
            setattr(self, name, kwargs.pop(name, default))
        self.normalize_top_k_affinities = not kwargs.pop(
            "disable_normalize_top_k_affinities", False
        )
        self.blockwise_matmul_config = {"block_size": 512} | kwargs.pop(
            "blockwise_matmul_config", {}
        )
        self.router_config = RouterConfig()
        super().__init__(**kwargs)


class InferenceConfig:
    def __init__(
        self,
        neuron_config: NeuronConfig,
        fused_spec_config: Any = None,
        load_config: Callable[[Any], None] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.neuron_config, self.fused_spec_config = neuron_config, fused_spec_config
        if load_config is not None:
            load_config(self)
        self.metadata = metadata
        self.__dict__.update(kwargs)
        missing = [name for name in self.get_required_attributes() if not hasattr(self, name)]
        assert not missing, f"Config must define {missing}"

    def get_required_attributes(self) -> list[str]:
        return []

    @classmethod
    def get_neuron_config_cls(cls) -> type[NeuronConfig]:
        return NeuronConfig

    def save(self, model_path: str) -> None:
        os.makedirs(model_path, exist_ok=True)
        with open(os.path.join(model_path, CONFIG_FILE), "w") as file:
            json.dump(_to_dict(self), file, indent=2, sort_keys=True)


def generate_buckets(shortest: int, longest: int) -> list[int]:
    """Powers of two from `shortest` on, then `longest`, as NxD Inference makes them."""
    bounds = (int(math.log2(shortest)), round(math.log2(longest)))
    return [2**power for power in range(*bounds)] + [longest]


def _to_dict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_dict(item) for key, item in value.items()}
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return _to_dict(vars(value)) if hasattr(value, "__dict__") else value


def _refuse(kind: type, unknown: dict[str, Any]) -> None:
    if unknown:
        raise TypeError(f"{kind.__name__}() got an unexpected keyword argument {sorted(unknown)}")
