"""NumPy oracles: one function per kernel, named after its spec, with the kernel's parameters.

Each follows its kernel's schedule of roundings to the dtypes of arguments and result, and is more
exact in between: row sums and exponentials are taken in float64 where the hardware's order or table
is its own business. Roundings are to nearest even (ml_dtypes for bfloat16).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
CHOSEN = 8


def _f32(array: Array) -> NDArray[np.float32]:
    return array.astype(np.float32)


def rmsnorm(x: Array, weight: Array, eps: float) -> Array:
    """x [N, H] / sqrt(mean(x^2) + eps) * weight [H], in the dtype of x.

    Mean in float64, the rest in float32; rounded to the dtype of x before the weight and after it
    (Qwen3MoeRMSNorm of transformers).
    """
    mean_square = np.mean(np.square(x.astype(np.float64)), axis=1, keepdims=True)
    rstd = (1.0 / np.sqrt(mean_square + eps)).astype(np.float32)
    normalised = (_f32(x) * rstd).astype(x.dtype)
    return (_f32(normalised) * _f32(weight)).astype(x.dtype)


def silu(x: Array) -> Array:
    """x [N, F] * sigmoid(x), float64 inside, in the dtype of x."""
    with np.errstate(over="ignore"):  # exp of a large -x is inf, and x / inf is the limit
        wide = x.astype(np.float64)
        return (wide / (1.0 + np.exp(-wide))).astype(np.float32).astype(x.dtype)


def _softmax(x: Array) -> NDArray[np.float32]:
    shifted = _f32(x) - np.max(_f32(x), axis=1, keepdims=True)
    exponentials = np.exp(shifted.astype(np.float64))
    return (exponentials / np.sum(exponentials, axis=1, keepdims=True)).astype(np.float32)


def softmax(x: Array) -> Array:
    """Softmax along the rows of x [N, F], in the dtype of x; float32 shift, float64 exp."""
    return _softmax(x).astype(x.dtype)


def add_rmsnorm(x: Array, residual: Array, weight: Array, eps: float) -> tuple[Array, Array]:
    """(rmsnorm(s), s) of s = x + residual rounded to the dtype of x; see `rmsnorm`."""
    total = (_f32(x) + _f32(residual)).astype(x.dtype)
    return rmsnorm(total, weight, eps), total


def rope(x: Array, cos: Array, sin: Array) -> Array:
    """x [S, heads, D] * cos + rotate_half(x) * sin, in the dtype of x.

    Both products in float32, rounded to the dtype of cos [S, D]; their sum rounded to that of x
    (apply_rotary_pos_emb of transformers, when cos and sin [S, D] have the dtype of x).
    """
    half = x.shape[2] // 2
    rotated = np.concatenate((-_f32(x[:, :, half:]), _f32(x[:, :, :half])), axis=2)
    straight = (_f32(x) * _f32(cos)[:, None, :]).astype(cos.dtype)
    crossed = (rotated * _f32(sin)[:, None, :]).astype(cos.dtype)
    return (_f32(straight) + _f32(crossed)).astype(x.dtype)


def router_softmax(logits: Array) -> Array:
    """Softmax along the experts of logits [T, E], float32 whatever their dtype."""
    return _softmax(logits)


def top8(probabilities: Array) -> tuple[Array, Array]:
    """(weights [T, 8] float32, indices [T, 8] uint32) of the 8 largest of each row, descending.

    Weights are divided by their float64 sum; equal probabilities keep the order of their indices.
    """
    order = np.argsort(-_f32(probabilities), axis=1, kind="stable")[:, :CHOSEN]
    chosen = np.take_along_axis(probabilities, order, axis=1).astype(np.float64)
    weights = chosen / np.sum(chosen, axis=1, keepdims=True)
    return weights.astype(np.float32), order.astype(np.uint32)


def expert_aggregation(expert_outputs: Array, weights: Array) -> Array:
    """Sum over k of weights [T, 8] * expert_outputs [T, 8, H], in the dtype of expert_outputs.

    Float32 products and sums in the order k = 0..7, one rounding at the end.
    """
    total = np.zeros(expert_outputs[:, 0, :].shape, dtype=np.float32)
    for k in range(CHOSEN):
        total += _f32(expert_outputs[:, k, :]) * _f32(weights[:, k : k + 1])
    return total.astype(expert_outputs.dtype)
