"""Random arguments of the router, the experts and the LM head: choices that no rounding changes.

As in `kernels.samples`: float arrays by name, not yet cast to the dtype under test, and integers.
Kernel and oracle must choose the same experts and tokens, so what they choose from is separated by
much more than what a sum in another order, or a rounding, moves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.layouts import LARGEST as PARTITIONS
from kernels.layouts import pack_linear, pack_vector
from kernels.samples import Arrays, Shapes

CHOSEN = 8
LADDER = 6.0 - 0.4 * np.arange(CHOSEN)  # logits of the chosen experts: apart by 13 steps of bf16
BELOW = 2.0  # no other expert's logit is larger
WINNER = 12.0  # logit of the token that the LM head must choose; others lie around 0 with sigma 1
SHIFT = 1009  # elements between two experts' weights in the stream that they are cut from
STEP = 61  # elements between two inputs' weights of the LM head in such a stream
SIZES = np.array([2e-3, 1.0, 30.0])  # of residual streams; in the first, eps matters


def _streams(rng: np.random.Generator, directions: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """x and residual [T, H] whose sum has the directions [T, H] of three sizes."""
    scale = SIZES[np.arange(len(directions)) % 3, None]
    residual = rng.standard_normal(directions.shape)
    return scale * (directions - residual), scale * residual


def router(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    """Hidden states that are sums of experts' directions, so that their logits are given.

    Experts have orthonormal directions; dividing by the norm's weight undoes it. Of every token 8
    experts' logits are the ladder, in random order, and all others are at most BELOW.
    """
    tokens, hidden = shapes["x"]
    experts = shapes["w_router"][2]
    weight = 1.0 + 0.2 * rng.standard_normal(hidden)
    basis, _ = np.linalg.qr(rng.standard_normal((hidden, experts)))
    logits = rng.uniform(-BELOW, BELOW, (tokens, experts))
    logits[:, :CHOSEN] = LADDER
    logits = rng.permuted(logits, axis=1)
    size = 1.2 * np.max(np.linalg.norm(logits, axis=1)) / hidden**0.5
    noise = rng.standard_normal((tokens, hidden))
    noise -= noise @ basis @ basis.T
    rest = hidden * size**2 - np.sum(np.square(logits), axis=1)
    noise *= (np.sqrt(rest) / np.maximum(np.linalg.norm(noise, axis=1), 1e-9))[:, None]
    x, residual = _streams(rng, (logits @ basis.T + noise) / size)
    columns = len(shapes["norm_weight"]) == 2
    return {
        "x": x,
        "residual": residual,
        "norm_weight": pack_vector(weight) if columns else weight,
        "w_router": pack_linear(size * basis.T / weight),
    }


def _expert_weights(
    rng: np.random.Generator, shape: tuple[int, ...], inputs: int
) -> NDArray[np.float32]:
    """N(0, 1 / inputs), one expert's a stretch of a stream that starts SHIFT after the last one's.

    A view: 128 experts of the true shape are 600 MB, of which the stream holds one hundredth.
    """
    experts, *rest = shape
    elements = int(np.prod(rest))
    stream = rng.standard_normal(elements + SHIFT * experts, dtype=np.float32) / np.float32(
        inputs**0.5
    )
    within = stream[:elements].reshape(rest).strides
    return np.lib.stride_tricks.as_strided(
        stream, shape, (SHIFT * stream.itemsize, *within), writeable=False
    )


def experts(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    """Normed hidden states, experts of which some are far more popular, shares that sum to 1.

    The whole prompt is real, unless a case gives another length.
    """
    tokens, hidden = shapes["x"]
    count, lines, columns, _width = shapes["w_gate_up"]
    popular = 0.7 * rng.standard_normal(count) + rng.gumbel(size=(tokens, count))
    raw = -np.sort(-rng.random((tokens, CHOSEN)), axis=1) + 0.05
    down = shapes["w_down"]
    arrays: Arrays = {
        "x": rng.standard_normal((tokens, hidden)),
        "weights": raw / np.sum(raw, axis=1, keepdims=True),
        "experts": np.argsort(-popular, axis=1)[:, :CHOSEN].astype(np.uint32),
        "w_gate_up": _expert_weights(rng, shapes["w_gate_up"], lines * columns),
        "w_down": _expert_weights(rng, down, down[1] * down[2]),
    }
    if "length" in shapes:
        arrays["length"] = np.full((1, 1), tokens, dtype=np.int32)
    return arrays


def _head_weights(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """N(0, 1 / H) [P, J, V]: every input's row a stretch of one stream, STEP after the last one's.

    A logit's terms are independent of each other, and logits are STEP apart before they repeat
    each other's weights for other inputs.
    """
    lines, columns, vocabulary = shape
    inputs = lines * columns
    stream = rng.standard_normal(vocabulary + STEP * inputs, dtype=np.float32)
    stream /= np.float32(inputs**0.5)
    strides = (STEP * stream.itemsize, STEP * lines * stream.itemsize, stream.itemsize)
    return np.lib.stride_tricks.as_strided(stream, shape, strides).copy()


def lm_head(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    """A token that wins by far at every position, and two later ones with exactly its logit.

    The winner's row has one entry that is not zero, at the largest element of the normed state, so
    that its logit is one product, the same in every order of summation. Of its two equals one is on
    an earlier partition, the other at the end: the first must win. It stands in the first half of
    the vocabulary, of every second token in the second half.
    """
    tokens, hidden = shapes["x"]
    vocabulary = shapes["w_head"][2]
    weight = 1.0 + 0.2 * rng.standard_normal(hidden)
    x, residual = _streams(rng, rng.standard_normal((tokens, hidden)))
    total = x + residual
    normed = total / np.sqrt(np.mean(np.square(total), axis=1, keepdims=True) + 1e-6) * weight
    head = _head_weights(rng, shapes["w_head"])
    lines = head.shape[0]
    half = -(-vocabulary // (2 * PARTITIONS)) * PARTITIONS
    for token, row in enumerate(normed):
        peak = int(np.argmax(np.abs(row)))
        first = half * (token % 2) + 40 + 3 * token
        for place in (first, first + PARTITIONS - 37, vocabulary - 1 - token):
            head[:, :, place] = 0.0
            head[peak % lines, peak // lines, place] = WINNER / row[peak]
    return {
        "x": x,
        "residual": residual,
        "norm_weight": pack_vector(weight),
        "w_head": head,
    }
