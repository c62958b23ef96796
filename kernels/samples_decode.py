"""Random arguments of the decode step's kernels; see `kernels.samples`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
    """Scores with a deviation of 2; a cache full of values, of which those not yet valid differ."""
    arrays: Arrays = {
        name: rng.standard_normal(shape, dtype=np.float32)
        for name, shape in shapes.items()
        if name != "position"
    }
    last = shapes["k_cache"][2] - shapes["q"][2]
    position = np.full((1, 1), int(rng.integers(0, last + 1)), dtype=np.int32)
    return arrays | {"q": 2.0 * arrays["q"], "position": position}


def output_projection(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    """Attended values, and weights that keep their size."""
    attended = rng.standard_normal(shapes["attended"])
    return {"attended": attended, "w_o": linear(rng, shapes["w_o"])}
