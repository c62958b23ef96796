"""The kernels' operations in plain torch: same arguments, same results, any dtype and any size.

What `model.dispatch` runs where a kernel is not eligible. Rounding follows transformers' Qwen3-MoE;
each function takes the tensors of the kernel of its name (see kernels/specs).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def rmsnorm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [N, H] over its root mean square, rounded to x's dtype, times weight [H]."""
    wide = x.float()
    normalised = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return normalised.to(x.dtype) * weight


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x) [N, F]."""
    return F.silu(x)


def softmax(x: Tensor) -> Tensor:
    """Softmax along F of [N, F], in float32 inside."""
    return F.softmax(x, dim=-1, dtype=torch.float32).to(x.dtype)


def add_rmsnorm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(rmsnorm(x + residual), x + residual), all [N, H]."""
    total = x + residual
    return rmsnorm(total, weight, eps), total


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [S, heads, D] by cos, sin [S, D]; the halves of D are the pairs."""
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat((-second, first), dim=-1)
    return (x * cos[:, None, :] + rotated * sin[:, None, :]).to(x.dtype)


def router_softmax(logits: Tensor) -> Tensor:
    """Softmax along the experts of [T, E], as float32."""
    return F.softmax(logits, dim=-1, dtype=torch.float32)


def expert_aggregation(expert_outputs: Tensor, weights: Tensor) -> Tensor:
    """Sum over k of weights [T, K] times expert_outputs [T, K, H], in float32 inside."""
    return (expert_outputs.float() * weights[:, :, None]).sum(dim=1).to(expert_outputs.dtype)


def top_k(probabilities: Tensor, count: int, renormalise: bool) -> tuple[Tensor, Tensor]:
    """(weights float32 [T, count], indices int64 [T, count]) of the most probable experts.

    Equal probabilities keep the order of their indices. `renormalise` makes the weights sum to 1.
    """
    ranked, order = probabilities.float().sort(dim=-1, descending=True, stable=True)
    weights = ranked[:, :count]
    if renormalise:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights, order[:, :count]


def top8(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """`top_k` as the kernel does it: the 8 most probable, renormalised."""
    return top_k(probabilities, 8, renormalise=True)


OPERATIONS: dict[str, Callable[..., Any]] = {
    operation.__name__: operation
    for operation in (
        rmsnorm,
        silu,
        softmax,
        add_rmsnorm,
        rope,
        router_softmax,
        top8,
        expert_aggregation,
    )
}
