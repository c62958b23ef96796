"""NumPy oracles of the decoder kernels, per tensor-parallel rank: attention, experts, LM head.

As in `kernels.reference`, a function has its kernel's name and parameters. Shapes: T tokens of one
sequence in decode (1 to 8), S in prefill; H hidden; D head dimension; C capacity of the cache; E
experts; I an expert's width; V vocabulary. [P, J, ...] are columns (`kernels.layouts`).

Results have the dtype of the first argument. Matrix products take operands of that dtype and sum in
float32 or better. `rounding` says what is rounded to it in between:

* "fused": only operands of matrix products and results (probabilities, activated products, queries
  and keys after RoPE); all else stays float32, as it lies on chip;
* "stepwise": the result of every operation that the unfused model in transformers carries out.

In float32 the two are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.layouts import unpack_linear, unpack_vector

Array = NDArray[Any]
Rounder = Callable[[Array], Array]
CHOSEN = 8


def _wide(array: Array) -> NDArray[np.float64]:
    return array.astype(np.float64)


def _to(dtype: np.dtype[Any]) -> Rounder:
    """Round to `dtype`; the values stay float64, so that what follows does not round again."""
    return lambda array: array.astype(np.float32).astype(dtype).astype(np.float64)


def _inner(dtype: np.dtype[Any], rounding: str) -> Rounder:
    """What happens to results between operations: rounded to `dtype`, or kept in float32."""
    if rounding not in ("fused", "stepwise"):
        raise ValueError(f"rounding: received {rounding!r}, expected 'fused' or 'stepwise'")
    return _to(dtype if rounding == "stepwise" else np.dtype(np.float32))


def _rmsnorm(x: Array, weight: Array, eps: float, inner: Rounder) -> Array:
    rstd = 1.0 / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + eps)
    return inner(inner(x * rstd) * _wide(weight))


def _softmax(scores: Array) -> Array:
    exponentials = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
    return exponentials / np.sum(exponentials, axis=-1, keepdims=True)


def _rope(x: Array, cos: Array, sin: Array, inner: Rounder) -> Array:
    """x [tokens, heads, D] by tables [tokens, D]."""
    half = x.shape[-1] // 2
    rotated = np.concatenate((-x[..., half:], x[..., :half]), axis=-1)
    return inner(x * _wide(cos)[:, None]) + inner(rotated * _wide(sin)[:, None])


def _add(x: Array, residual: Array | None, inner: Rounder) -> Array:
    return _wide(x) if residual is None else inner(_wide(x) + _wide(residual))


def _qkv(
    total: Array,
    norm_weight: Array,
    w_qkv: Array,
    q_norm: Array,
    k_norm: Array,
    cos: Array,
    sin: Array,
    eps: float,
    kv_heads: int,
    dtype: np.dtype[Any],
    rounding: str,
) -> tuple[Array, Array, Array]:
    """Queries, keys, values [tokens, heads, D] in `dtype` of hidden states [tokens, H]."""
    inner, result = _inner(dtype, rounding), _to(dtype)
    normed = result(_rmsnorm(total, norm_weight, eps, inner))
    projected = inner(normed @ _wide(unpack_linear(w_qkv)).T)
    heads = projected.reshape(len(total), -1, q_norm.shape[0])
    query, key, value = np.split(heads, [heads.shape[1] - 2 * kv_heads, -kv_heads], axis=1)
    query, key = (
        _rope(_rmsnorm(part, weight, eps, inner), cos, sin, inner)
        for part, weight in ((query, q_norm), (key, k_norm))
    )
    return query.astype(dtype), key.astype(dtype), value.astype(dtype)


def qkv_decode(
    x: Array,
    residual: Array | None,
    norm_weight: Array,
    w_qkv: Array,
    q_norm: Array,
    k_norm: Array,
    cos: Array,
    sin: Array,
    eps: float,
    kv_heads: int,
    rounding: str = "fused",
) -> tuple[Array, ...]:
    """RMSNorm, QKV projection, norms of the heads and RoPE of T tokens; with a residual, the sum.

    x, residual [T, H]; norm_weight [P, J]; w_qkv [P, J, (heads + 2 kv heads) D]: queries, keys,
    values; q_norm, k_norm [D]; cos, sin [T, D].
    Returns q [D, heads, T], k [D, kv heads, T], v [T, kv heads, D] and, with a residual, total
    [T, H] = x + residual, rounded to the dtype of x before it is normed if stepwise.
    """
    total = _add(x, residual, _inner(x.dtype, rounding))
    weight = unpack_vector(norm_weight)
    query, key, value = _qkv(
        total, weight, w_qkv, q_norm, k_norm, cos, sin, eps, kv_heads, x.dtype, rounding
    )
    parts = (query.transpose(2, 1, 0), key.transpose(2, 1, 0), value)
    return parts if residual is None else (*parts, total.astype(x.dtype))


def qkv_prefill(
    x: Array,
    residual: Array | None,
    norm_weight: Array,
    w_qkv: Array,
    q_norm: Array,
    k_norm: Array,
    cos: Array,
    sin: Array,
    eps: float,
    kv_heads: int,
    rounding: str = "fused",
) -> tuple[Array, ...]:
    """As `qkv_decode`, of a prompt: x, residual [S, H]; norm_weight [H]; cos, sin [S, D].

    Returns q [heads, D, S], k [kv heads, D, S], v [kv heads, S, D] and, with a residual, total.
    """
    total = _add(x, residual, _inner(x.dtype, rounding))
    query, key, value = _qkv(
        total, norm_weight, w_qkv, q_norm, k_norm, cos, sin, eps, kv_heads, x.dtype, rounding
    )
    parts = (query.transpose(1, 2, 0), key.transpose(1, 2, 0), value.transpose(1, 0, 2))
    return parts if residual is None else (*parts, total.astype(x.dtype))


def _attend(query: Array, key: Array, value: Array, seen: Array, inner: Rounder) -> Array:
    """query [tokens, D] over key, value [C, D] where `seen` [tokens, C]; -> [tokens, D].

    The caller rounds the shares of the values, an operand of a matrix product, by `inner`.
    """
    scores = inner(inner(query @ key.T) * query.shape[1] ** -0.5)
    return inner(_softmax(np.where(seen, scores, -np.inf))) @ value


def attention_decode(
    q: Array,
    k: Array,
    v: Array,
    k_cache: Array,
    v_cache: Array,
    position: Array,
    rounding: str = "fused",
    update_cache: bool = True,
) -> Array | tuple[Array, Array, Array]:
    """Put T new keys and values into the cache and attend over what it holds up to each of them.

    q [D, heads, T]; k [D, kv heads, T]; v [T, kv heads, D]; k_cache [kv heads, D, C] and v_cache
    [kv heads, C, D], updated in place at position .. position + T - 1; position [1, 1] int32.
    Returns attended [D, heads, T] and both caches; attended alone, and leaves the caches as they
    are, without `update_cache`: the caller then updates them.
    """
    tokens, group = q.shape[2], q.shape[1] // k.shape[1]
    start = int(position[0, 0])
    keys, values = k_cache.copy(), v_cache.copy()
    keys[:, :, start : start + tokens] = k.transpose(1, 0, 2)
    values[:, start : start + tokens] = v.transpose(1, 0, 2)
    seen = np.arange(keys.shape[2]) <= start + np.arange(tokens)[:, None]
    inner = _inner(q.dtype, rounding)
    attended = np.stack(
        [
            _attend(
                _wide(q[:, head].T),
                _wide(keys[head // group].T),
                _wide(values[head // group]),
                seen,
                inner,
            ).T
            for head in range(q.shape[1])
        ],
        axis=1,
    )
    if not update_cache:
        return attended.astype(q.dtype)
    return attended.astype(q.dtype), keys, values


def attention_prefill(q: Array, k: Array, v: Array, rounding: str = "fused") -> Array:
    """Causal attention of a prompt: q [heads, D, S], k [kv heads, D, S], v [kv heads, S, D].

    Returns [heads, D, S]. Padding on the right is seen by padding alone.
    """
    group, tokens = q.shape[0] // k.shape[0], q.shape[2]
    seen = np.tril(np.ones((tokens, tokens), dtype=bool))
    inner = _inner(q.dtype, rounding)
    return np.stack(
        [
            _attend(
                _wide(q[head].T),
                _wide(k[head // group].T),
                _wide(v[head // group]),
                seen,
                inner,
            ).T
            for head in range(q.shape[0])
        ]
    ).astype(q.dtype)


def _project(attended: Array, w_o: Array) -> Array:
    """attended [D, heads, tokens] by w_o [D, heads, H]; -> [tokens, H]."""
    return np.tensordot(attended, _wide(w_o), axes=((0, 1), (0, 1)))


def output_projection_decode(attended: Array, w_o: Array) -> Array:
    """attended [D, heads, T] by w_o [D, heads, H]; -> [T, H], this rank's part of the sum."""
    return _project(_wide(attended), w_o).astype(attended.dtype)


def output_projection_prefill(attended: Array, w_o: Array) -> Array:
    """attended [heads, D, S] by w_o [D, heads, H]; -> [S, H], this rank's part of the sum."""
    return _project(_wide(attended).transpose(1, 0, 2), w_o).astype(attended.dtype)


def _choose(
    total: Array,
    norm_weight: Array,
    w_router: Array,
    eps: float,
    dtype: np.dtype[Any],
    rounding: str,
) -> tuple[Array, Array, Array]:
    """Normed hidden states in `dtype`, shares and experts of hidden states [tokens, H]."""
    inner = _inner(dtype, rounding)
    normed = _to(dtype)(_rmsnorm(total, norm_weight, eps, inner))
    logits = inner(normed @ _wide(unpack_linear(w_router)).T)
    experts = np.argsort(-logits, axis=1, kind="stable")[:, :CHOSEN]
    weights = _softmax(np.take_along_axis(logits, experts, axis=1))
    weights = inner(weights).astype(np.float32)
    return normed.astype(dtype), weights, experts.astype(np.uint32)


def _route(
    x: Array, residual: Array, norm_weight: Array, w_router: Array, eps: float, rounding: str
) -> tuple[Array, Array, Array, Array]:
    total = _add(x, residual, _inner(x.dtype, rounding))
    normed, weights, experts = _choose(total, norm_weight, w_router, eps, x.dtype, rounding)
    return normed, total.astype(x.dtype), weights, experts


def router_decode(
    x: Array,
    residual: Array,
    norm_weight: Array,
    w_router: Array,
    eps: float,
    rounding: str = "fused",
) -> tuple[Array, Array, Array, Array]:
    """Residual addition, RMSNorm, router logits, the 8 best experts and their shares, of T tokens.

    x, residual [T, H]; norm_weight [P, J]; w_router [P, J, E] in the dtype of x. Shares: softmax
    over all experts, renormalised over the chosen ones, which is the softmax over the chosen.
    Returns normed [T, H], total [T, H], weights [T, 8] float32, experts [T, 8] uint32, descending.
    """
    weight = unpack_vector(norm_weight)
    return _route(x, residual, weight, w_router, eps, rounding)


def router_prefill(
    x: Array,
    residual: Array,
    norm_weight: Array,
    w_router: Array,
    eps: float,
    rounding: str = "fused",
) -> tuple[Array, Array, Array, Array]:
    """As `router_decode`, of S tokens; norm_weight [H]."""
    return _route(x, residual, norm_weight, w_router, eps, rounding)


def _experts(
    x: Array,
    weights: Array,
    experts: Array,
    w_gate_up: Array,
    w_down: Array,
    rounding: str,
    folded: bool,
) -> Array:
    """Weighted sum [tokens, H] of the chosen experts' SwiGLU of x [tokens, H]; see the callers.

    `folded`: shares go into the operand of the last product, not onto its result.
    """
    inner, operand = _inner(x.dtype, rounding), _to(x.dtype)
    total = np.zeros(x.shape)
    for expert in np.unique(experts):
        tokens, ranks = np.nonzero(experts == expert)
        gate, up = np.split(
            inner(_wide(x[tokens]) @ _wide(unpack_linear(w_gate_up[expert])).T), 2, axis=1
        )
        activated = inner(inner(gate / (1.0 + np.exp(-gate))) * up)
        share, down = _wide(weights[tokens, ranks])[:, None], _wide(unpack_linear(w_down[expert]))
        if folded:
            total[tokens] += operand(activated * share) @ down.T
        else:
            total[tokens] += inner(inner(operand(activated) @ down.T) * share)
    return total


def experts_decode(
    x: Array,
    weights: Array,
    experts: Array,
    w_gate_up: Array,
    w_down: Array,
    rounding: str = "fused",
) -> Array:
    """The chosen experts' SwiGLU of T tokens, weighted and summed; reads the chosen weights alone.

    x [T, H]; weights [T, 8] float32; experts [T, 8] uint32; w_gate_up [E, P, J, 2 I], gate before
    up; w_down [E, P', J', H] over I. Returns [T, H], this rank's part of the sum.

    Fused, a share goes into the activated products, so that one sum runs over all experts.
    """
    folded = rounding == "fused"
    return _experts(x, weights, experts, w_gate_up, w_down, rounding, folded).astype(x.dtype)


def experts_prefill(
    x: Array,
    weights: Array,
    experts: Array,
    length: Array,
    w_gate_up: Array,
    w_down: Array,
    rounding: str = "fused",
) -> Array:
    """As `experts_decode`, of a prompt of `length` [1, 1] int32 tokens, padded to S on the right.

    Padding is sent to no expert: its rows of the result are zero. Shares multiply the experts'
    outputs, fused too: these lie by expert, and the shares by token, until they are summed.
    """
    real = int(length[0, 0])
    out = np.zeros(x.shape, dtype=x.dtype)
    chosen = (x[:real], weights[:real], experts[:real])
    out[:real] = _experts(*chosen, w_gate_up, w_down, rounding, folded=False)
    return out


def decoder_stack(
    x: Array,
    input_norm: Array,
    w_qkv: Array,
    q_norm: Array,
    k_norm: Array,
    w_o: Array,
    post_norm: Array,
    w_router: Array,
    w_gate_up: Array,
    w_down: Array,
    k_cache: Array,
    v_cache: Array,
    position: Array,
    cos: Array,
    sin: Array,
    eps: float,
    rounding: str = "fused",
) -> tuple[Array, Array, Array]:
    """L decoder layers of T tokens on one rank; x [T, H], everything else as above, behind L.

    The residual and what is added to it are rounded to the dtype of x if stepwise, and stay
    float32 if fused. Returns hidden [T, H] and both caches, updated as by `attention_decode`.
    """
    inner, kv_heads = _inner(x.dtype, rounding), k_cache.shape[1]
    total, caches = _wide(x), []
    for layer in range(len(w_qkv)):
        norms = (q_norm[layer], k_norm[layer], cos, sin, eps, kv_heads, x.dtype, rounding)
        query, key, value = _qkv(total, unpack_vector(input_norm[layer]), w_qkv[layer], *norms)
        query, key = query.transpose(2, 1, 0), key.transpose(2, 1, 0)
        attended, *updated = attention_decode(
            query, key, value, k_cache[layer], v_cache[layer], position, rounding
        )
        caches.append(updated)
        output = _project(_wide(attended), w_o[layer])
        total = inner(total + inner(output))
        normed, weights, experts = _choose(
            total, unpack_vector(post_norm[layer]), w_router[layer], eps, x.dtype, rounding
        )
        chosen = (normed, weights, experts, w_gate_up[layer], w_down[layer])
        output = _experts(*chosen, rounding, folded=rounding == "fused")
        total = inner(total + inner(output))
    keys, values = (np.stack(arrays) for arrays in zip(*caches, strict=True))
    return total.astype(x.dtype), keys, values


def lm_head(
    x: Array,
    residual: Array,
    norm_weight: Array,
    w_head: Array,
    eps: float,
    rounding: str = "fused",
) -> tuple[Array, Array, Array]:
    """Residual addition, final RMSNorm and LM head of T tokens, with the greedy choice.

    x, residual [T, H]; norm_weight [P, J]; w_head [P, J, V]. Returns logits [T, V] in the dtype of
    x, the largest logit [T, 1] float32 and its index [T, 1] uint32, the first among equals; before
    rounding to the dtype of x if fused, after it if stepwise.
    """
    inner = _inner(x.dtype, rounding)
    weight = unpack_vector(norm_weight)
    normed = _to(x.dtype)(_rmsnorm(_add(x, residual, inner), weight, eps, inner))
    logits = inner(normed @ _wide(unpack_linear(w_head)).T)
    token = np.argmax(logits, axis=1)[:, None]
    largest = np.take_along_axis(logits, token, axis=1)
    return logits.astype(x.dtype), largest.astype(np.float32), token.astype(np.uint32)
