"""Random arguments of the decode step's kernels; see `kernels.samples`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.layouts import pack_linear
from kernels.samples import Arrays, Shapes, rope

Values = NDArray[np.float32]


def linear(rng: np.random.Generator, shape: tuple[int, ...]) -> Values:
    """Weights [P, J, outputs] which keep the size of what they multiply."""
    fan_in = shape[-3] * shape[-2]
    values: Values = rng.standard_normal(shape, dtype=np.float32) * np.float32(fan_in**-0.5)
    return values


def norm_weight(
    rng: np.random.Generator, shape: tuple[int, ...], size: float
) -> NDArray[np.float64]:
    """Norm weights around `size`."""
    weights: NDArray[np.float64] = size * (1.0 + 0.2 * rng.standard_normal(shape))
    return weights


def rows(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    """x and residual [T, H] of three sizes; in every third row eps matters."""
    sizes = np.array([1.0, 30.0, 2e-3])
    return {
        name: rng.standard_normal(shapes[name]) * sizes[np.arange(shapes[name][0]) % 3, None]
        for name in ("x", "residual")
        if name in shapes
    }


def qkv(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    """Rows of three sizes, weights that keep them, unlike norms of queries and keys."""
    tables = rope(rng, {"x": (1,), "cos": shapes["cos"]})
    return rows(rng, shapes) | {
        "norm_weight": norm_weight(rng, shapes["norm_weight"], 1.0),
        "w_qkv": linear(rng, shapes["w_qkv"]),
        "q_norm": norm_weight(rng, shapes["q_norm"], 1.5),
        "k_norm": norm_weight(rng, shapes["k_norm"], 0.8),
        "cos": tables["cos"],
        "sin": tables["sin"],
    }


def attention(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    """Scores with a deviation of 2, in every second head around 45; a cache full of values.

    Twice 45 is more than an exponential in float32 holds. What lifts a score is the first element
    of a head, which is the same in all keys.
    """
    arrays = caches(rng, shapes)
    for name in ("q", "k", "v"):
        arrays[name] = rng.standard_normal(shapes[name], dtype=np.float32)
    arrays["q"] *= 2.0
    arrays["q"][0, 1::2] = 45.0 / 8.0 * len(arrays["q"]) ** 0.5
    arrays["k"][0] = 8.0
    arrays["k_cache"][:, 0] = 8.0
    return arrays


def caches(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    """Both caches, full of values, and a position from which the new tokens [.., T] fit in."""
    last = shapes["k_cache"][-1] - tokens_of(shapes)
    return {
        "k_cache": rng.standard_normal(shapes["k_cache"], dtype=np.float32),
        "v_cache": rng.standard_normal(shapes["v_cache"], dtype=np.float32),
        "position": np.full((1, 1), int(rng.integers(0, last + 1)), dtype=np.int32),
    }


def tokens_of(shapes: Shapes) -> int:
    """T, of queries [D, heads, T] or of hidden states [T, H]."""
    return shapes["q"][2] if "q" in shapes else shapes["x"][0]


def output_projection(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    """Attended values, and weights that keep their size."""
    attended = rng.standard_normal(shapes["attended"])
    return {"attended": attended, "w_o": linear(rng, shapes["w_o"])}


DIRECTIONS = 4  # of the residual stream that decide about experts


def decoder_stack(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    """Layers whose experts differ, and tokens which choose theirs by a margin.

    A token has a strong part along one of four directions, and a router's rows are sums of these
    directions, so that the 12 largest logits are half a unit apart, whatever the layers add.
    """
    tables = rope(rng, {"x": (1,), "cos": shapes["cos"]})
    tokens, hidden = shapes["x"]
    directions = rng.choice([-1.0, 1.0], size=(DIRECTIONS, hidden))
    strong = 3.0 * directions[np.arange(tokens) % DIRECTIONS]
    norms = ("input_norm", "post_norm")
    return {
        **caches(rng, shapes),
        **{name: norm_weight(rng, shapes[name], 1.0) for name in norms},
        **{name: linear(rng, shapes[name]) for name in ("w_qkv", "w_o")},
        "x": strong + rng.standard_normal((tokens, hidden)),
        "q_norm": norm_weight(rng, shapes["q_norm"], 1.5),
        "k_norm": norm_weight(rng, shapes["k_norm"], 0.8),
        "w_router": router(rng, shapes["w_router"], directions),
        "w_gate_up": experts(rng, shapes["w_gate_up"]),
        "w_down": experts(rng, shapes["w_down"]),
        "cos": tables["cos"],
        "sin": tables["sin"],
    }


def router(
    rng: np.random.Generator, shape: tuple[int, ...], directions: NDArray[np.float64]
) -> NDArray[Any]:
    """Weights [layers, P, J, experts] that prefer other experts along each direction [n, H]."""
    layers, _, _, count = shape
    best = np.linspace(3.5, 9.0, 12)
    preferences = np.concatenate((best, np.linspace(-4.0, 3.0, count - len(best))))
    order = rng.permuted(np.tile(preferences, (layers, len(directions), 1)), axis=2)
    rows = np.einsum("lne,nh->leh", order, directions) / directions.shape[1]
    packed: NDArray[Any] = pack_linear(rows)
    return packed


def experts(rng: np.random.Generator, shape: tuple[int, ...]) -> Values:
    """Weights [layers, experts, P, J, outputs]: windows onto one block, each scaled its own way."""
    layers, count, lines, columns, outputs = shape
    block = linear(rng, (layers, lines, columns, outputs + count))
    values = np.empty(shape, dtype=np.float32)
    for expert in range(count):
        window = block[..., expert : expert + outputs]
        np.multiply(window, np.float32(0.5 + expert / count), out=values[:, expert])
    return values
