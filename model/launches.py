"""How often each kernel must be launched, from the architecture alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from model.dispatch import why_not_routed


def expected_launches(
    config: Mapping[str, Any],
    phase: Literal["prefill", "decode"],
    final_norm_fused: bool = True,
) -> dict[str, int]:
    """Launches per kernel of one prefill, or of one decode step, of the model with kernels.

    `config` is the checkpoint's config.json. Each layer launches once for all its tokens, heads and
    experts, so that both phases count the same, whatever the prompt. The first layer's input norm
    stands alone; every other hidden-state norm, the final one included, is fused with the residual
    addition before it. Queries and keys have norms of their own. `final_norm_fused=False` is for a
    model whose last addition is not a kernel's (NxD Inference calls the final norm with the sum).
    ValueError for another phase.
    """
    if phase not in ("prefill", "decode"):
        raise ValueError(f"phase: received {phase!r}; use 'prefill' or 'decode'")
    layers = config["num_hidden_layers"]
    chosen = config["num_experts_per_tok"]
    routed = why_not_routed(config["num_experts"], chosen, config["norm_topk_prob"]) is None
    aggregated = why_not_routed(chosen, chosen) is None
    return {
        "rmsnorm": 1 + 2 * layers + (not final_norm_fused),
        "rope": layers,
        "softmax": layers,
        "add_rmsnorm": 2 * layers - (not final_norm_fused),
        "router_softmax": layers,
        "top8": layers if routed else 0,
        "silu": layers,
        "expert_aggregation": layers if aggregated else 0,
    }
