"""The shapes at which a Qwen3-MoE model launches each kernel, derived from its architecture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PREFILL_BUCKETS = (128, 256, 640)
"""Sequence lengths that the challenge compiles for, in tokens."""

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Architecture:
    """The dimensions of a Qwen3-MoE model that kernels see."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int
    experts_per_token: int
    expert_hidden: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Architecture:
        """Read the dimensions from a Hugging Face config.json."""
        return cls(
            hidden=config["hidden_size"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head_dim=config["head_dim"],
            experts=config["num_experts"],
            experts_per_token=config["num_experts_per_tok"],
            expert_hidden=config["moe_intermediate_size"],
        )


QWEN3_30B_A3B = Architecture(
    hidden=2048,
    heads=32,
    kv_heads=4,
    head_dim=128,
    experts=128,
    experts_per_token=8,
    expert_hidden=768,
)
"""From config.json of Qwen/Qwen3-30B-A3B on the Hugging Face hub."""


@dataclass(frozen=True)
class Trace:
    """One kernel at one set of shapes; `tokens` are those that the step processes."""

    kernel: str
    phase: str
    tokens: int
    shapes: Shapes


def traces_of(architecture: Architecture) -> Iterator[Trace]:
    """Yield every kernel at each prefill bucket and at a decode step over the full sequence."""
    for tokens in PREFILL_BUCKETS:
        for kernel, shapes in kernel_shapes(architecture, tokens, tokens):
            yield Trace(kernel, "prefill", tokens, shapes)
    for kernel, shapes in kernel_shapes(architecture, 1, PREFILL_BUCKETS[-1]):
        yield Trace(kernel, "decode", 1, shapes)


def kernel_shapes(a: Architecture, tokens: int, context: int) -> Iterator[tuple[str, Shapes]]:
    """Yield each kernel with the shapes of its tensors for `tokens` that see `context` keys.

    These are the launches of one layer in `model.qwen_cpu`: RMSNorm over hidden states, queries and
    keys, RoPE over query and key heads side by side, SiLU over all rows sent to experts.
    """
    hidden, table = (tokens, a.hidden), (tokens, a.head_dim)
    yield "rmsnorm", {"x": hidden, "weight": (a.hidden,)}
    for heads in (a.heads, a.kv_heads):
        yield "rmsnorm", {"x": (tokens * heads, a.head_dim), "weight": (a.head_dim,)}
    all_heads = (tokens, a.heads + a.kv_heads, a.head_dim)
    yield "rope", {"x": all_heads, "cos": table, "sin": table}
    yield "softmax", {"x": (a.heads * tokens, context)}
    yield "add_rmsnorm", {"x": hidden, "residual": hidden, "weight": (a.hidden,)}
    yield "router_softmax", {"logits": (tokens, a.experts)}
    yield "top8", {"probabilities": (tokens, a.experts)}
    yield "silu", {"x": (tokens * a.experts_per_token, a.expert_hidden)}
    routed = (tokens, a.experts_per_token)
    yield "expert_aggregation", {"expert_outputs": (*routed, a.hidden), "weights": routed}
