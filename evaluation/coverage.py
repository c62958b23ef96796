"""How much of a model's arithmetic runs in kernels: multiply-accumulates (MACs) of both, per phase.

*Useful* MACs are those that the model's graph demands, by closed formulas over the architecture:
real tokens, the chosen experts, attention to the tokens before, logits of the last token.
*Counted* ones are what kernels really issued, read from the simulator's account: padding, masked
scores and sums or permutations by the tensor engine come on top. A kernel covers the operations
that it stands for when it was launched; how many times the useful work it issued is its overhead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.shapes import Architecture

LAYER_OPERATIONS = ("qkv", "attention", "output_projection", "router", "experts")
OPERATIONS = (*LAYER_OPERATIONS, "lm_head")

PHASES = ("prefill", "decode_step")


def useful_macs(a: Architecture, tokens: int, seen: int = 0) -> dict[str, int]:
    """MACs that `tokens` tokens behind `seen` cached ones demand, by operation, over all layers.

    Token i attends to seen + i + 1 keys, with products for its scores and for its values.
    """
    pairs = tokens * seen + tokens * (tokens + 1) // 2
    per_layer = {
        "qkv": tokens * a.hidden * (a.heads + 2 * a.kv_heads) * a.head_dim,
        "attention": 2 * pairs * a.heads * a.head_dim,
        "output_projection": tokens * a.heads * a.head_dim * a.hidden,
        "router": tokens * a.hidden * a.experts,
        "experts": tokens * a.experts_per_token * 3 * a.hidden * a.expert_hidden,
    }
    whole = {operation: a.layers * macs for operation, macs in per_layer.items()}
    return {**whole, "lm_head": a.hidden * a.vocabulary}


def covered_by(kernel: str) -> tuple[str, ...]:
    """The matrix products that a kernel carries out; none for the kernels of single rows."""
    if kernel == "decoder_stack":
        return LAYER_OPERATIONS
    name = kernel.removesuffix("_prefill").removesuffix("_decode")
    return (name,) if name in OPERATIONS else ()


def coverage(
    useful: Mapping[str, int], counted: Mapping[str, int], tokens: int, padded_tokens: int
) -> dict[str, Any]:
    """The record of one phase; `counted` has the MACs of each kernel that was launched.

    `useful_share` is of all useful MACs, `useful_share_of_layers` of those outside the LM head.
    `issued_share`: counted ones over these and what stays outside of kernels, at the size that the
    graph has it, that is with padding. `overhead`: counted over useful ones of what is covered.
    """
    covered = {operation for kernel in counted for operation in covered_by(kernel)}
    inside = sum(macs for operation, macs in useful.items() if operation in covered)
    layers = {operation: useful[operation] for operation in LAYER_OPERATIONS}
    inside_layers = sum(macs for operation, macs in layers.items() if operation in covered)
    outside = sum(
        macs * (padded_tokens if operation != "lm_head" else tokens) // tokens
        for operation, macs in useful.items()
        if operation not in covered
    )
    issued = sum(counted.values())
    return {
        "tokens": tokens,
        "padded_tokens": padded_tokens,
        "useful_macs": dict(useful),
        "counted_macs": dict(counted),
        "useful_share": inside / sum(useful.values()),
        "useful_share_of_layers": inside_layers / sum(layers.values()),
        "issued_share": issued / (issued + outside),
        "overhead": issued / inside if inside else None,
    }
