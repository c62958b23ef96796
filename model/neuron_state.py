"""From a Hugging Face Qwen3-MoE checkpoint to the names and layouts of NxD Inference, exactly.

H hidden size, I width of an expert, E experts, D head dimension. Names come without the leading
"model.". What is not expected is refused, and what is expected must be there: NxD Inference itself
loads with `strict=False`, where a forgotten norm weight stays at one and no one notices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]

SCALE = "_scale_inv"  # suffix of the block scales of an FP8 weight
CACHE_PREFIX = "kv_mgr."  # the KV manager's buffers, which no checkpoint holds
RENAMED = {
    "self_attn.q_norm.weight": "self_attn.q_layernorm.weight",
    "self_attn.k_norm.weight": "self_attn.k_layernorm.weight",
    "mlp.gate.weight": "mlp.router.linear_router.weight",
}
KEPT = ("input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.o_proj.weight")
QUERY_KEY_VALUE = tuple(f"self_attn.{name}_proj.weight" for name in "qkv")
EXPERT_PARTS = ("gate_proj.weight", "up_proj.weight", "down_proj.weight")
FUSED_QKV = "self_attn.Wqkv.weight"
GATE_UP = "mlp.expert_mlps.mlp_op.gate_up_proj.weight"
DOWN = "mlp.expert_mlps.mlp_op.down_proj.weight"
RANK = "rank_util.rank"


class WrongCheckpoint(ValueError):
    """A state dict that lacks tensors, has unknown ones, or has them in other shapes."""


def convert(state: State, config: Any) -> State:
    """NxD Inference's tensors of the Hugging Face tensors in `state`, which is emptied meanwhile.

    `config` is NxD Inference's configuration of the model. Every tensor of `state` is moved or
    merged: renamed norms and router; gate and up of all experts stacked to [E, H, 2 I], down to
    [E, I, H], each padded with zeros to `moe_intermediate_pad_size`; with `fused_qkv` the rows of
    query, key and value in one tensor; ranks 0..tp as int32. WrongCheckpoint for anything else.
    """
    neuron_config = config.neuron_config
    dequantise(state, config)
    check_names(state, expected_names(config), "the checkpoint")
    ranks = torch.arange(neuron_config.tp_degree, dtype=torch.int32)
    converted: State = {RANK: ranks.clone()}
    for layer in range(config.num_hidden_layers):
        prefix = f"layers.{layer}."
        converted[f"{prefix}self_attn.{RANK}"] = ranks.clone()
        for name in KEPT:
            converted[prefix + name] = state.pop(prefix + name)
        for old, new in RENAMED.items():
            converted[prefix + new] = state.pop(prefix + old)
        _attention(state, converted, prefix, neuron_config.fused_qkv)
        _experts(state, converted, prefix, config)
    converted.update(state)
    state.clear()
    return converted


def expected_names(config: Any) -> set[str]:
    """Names of all tensors in a Hugging Face checkpoint of this configuration."""
    per_layer = [*KEPT, *RENAMED, *QUERY_KEY_VALUE]
    per_layer += [
        f"mlp.experts.{expert}.{part}"
        for expert in range(config.num_experts)
        for part in EXPERT_PARTS
    ]
    names = {"embed_tokens.weight", "norm.weight"}
    if not getattr(config, "tie_word_embeddings", False):
        names.add("lm_head.weight")
    layers = range(config.num_hidden_layers)
    return names | {f"layers.{layer}.{name}" for layer in layers for name in per_layer}


def check_names(state: Iterable[str], expected: set[str], what: str) -> None:
    """WrongCheckpoint unless `state` has exactly the names `expected`."""
    names = set(state)
    missing, unknown = sorted(expected - names), sorted(names - expected)
    if missing or unknown:
        raise WrongCheckpoint(
            f"{what}: {_some('missing', missing)}; {_some('unknown', unknown)}; it does not belong "
            "to this configuration, or its download is incomplete"
        )


def check_only_cache_missing(missing: Sequence[str]) -> None:
    """WrongCheckpoint if a model got no value for anything but the KV manager's buffers."""
    lacking = sorted(name for name in missing if not name.startswith(CACHE_PREFIX))
    if lacking:
        raise WrongCheckpoint(
            f"the model's parameters: {_some('missing', lacking)}; NxD Inference would run with "
            "whatever they were initialised to"
        )


def dequantise(state: State, config: Any) -> None:
    """Multiply FP8 weights by their block scales, in place; the scales leave `state`."""
    for scale_name in [name for name in state if name.endswith(SCALE)]:
        scale = state.pop(scale_name).float()
        name = scale_name.removesuffix(SCALE)
        rows, columns = config.quantization_config["weight_block_size"]
        height, width = state[name].shape
        blocks = scale.repeat_interleave(rows, dim=0).repeat_interleave(columns, dim=1)
        values = state[name].float() * blocks[:height, :width]
        state[name] = values.to(config.neuron_config.torch_dtype)


def _attention(state: State, converted: State, prefix: str, fused: bool) -> None:
    parts = {name: state.pop(prefix + name) for name in QUERY_KEY_VALUE}
    if fused:
        converted[prefix + FUSED_QKV] = torch.cat(list(parts.values()))
    else:
        converted.update({prefix + name: tensor for name, tensor in parts.items()})


def _experts(state: State, converted: State, prefix: str, config: Any) -> None:
    """The experts' stacks; padding goes behind each of gate, up (columns) and down (rows)."""
    padding = getattr(config, "moe_intermediate_pad_size", 0)
    gate, up, down = (_stack(state, prefix, part, config.num_experts) for part in EXPERT_PARTS)
    gate, up = (F.pad(part, (0, padding)) for part in (gate, up))
    converted[prefix + GATE_UP] = torch.cat((gate, up), dim=2)
    converted[prefix + DOWN] = F.pad(down, (0, 0, 0, padding))


def _stack(state: State, prefix: str, part: str, experts: int) -> Tensor:
    """[E, in, out] of the E linear layers [out, in], each transposed."""
    tensors = [state.pop(f"{prefix}mlp.experts.{expert}.{part}").T for expert in range(experts)]
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) != 1:
        raise WrongCheckpoint(f"{prefix}mlp.experts.*.{part}: shapes {sorted(shapes)} differ")
    return torch.stack(tensors)


def _some(what: str, names: Sequence[str], shown: int = 3) -> str:
    examples = ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
    return f"{len(names)} {what}" + (f" ({examples})" if names else "")
