"""Random arguments for each kernel, shaped like what the model feeds it, and hard where it matters.

Every function takes a generator and the shapes by argument name and returns float arrays by name,
not yet cast to the dtype under test. Rows that a fault would show in are always among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import reference

Arrays = dict[str, NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]

ROPE_THETA = 1e6  # rope_theta of Qwen3-30B-A3B
MASKED = -3.3e38  # what masks a score: finite, near the minimum of float32 and bfloat16


def norm(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    """Rows of three sizes; the first, and every third, is so small that eps matters in it."""
    sizes = np.array([2e-3, 1.0, 30.0])
    values = {
        name: rng.standard_normal(shape) * sizes[np.arange(shape[0]) % 3, None]
        for name, shape in shapes.items()
        if name != "weight"
    }
    return values | {"weight": 1.0 + 0.2 * rng.standard_normal(shapes["weight"])}


def silu(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    """Gate projections, from the linear part to both tails of the sigmoid."""
    return {"x": 4.0 * rng.standard_normal(shapes["x"])}


def softmax(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    """Attention scores of which about a tenth is masked, but never a whole row."""
    scores = _scores(rng, shapes["x"])
    masked = rng.random(shapes["x"]) < 0.1
    masked[:, 0] = False
    return {"x": np.where(masked, MASKED, scores)}


def router(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    """Router logits."""
    return {"logits": _scores(rng, shapes["logits"])}


def _scores(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[Any]:
    """Normal rows; every second is so high that its exponentials would overflow unshifted."""
    height = np.where(np.arange(shape[0]) % 2 == 1, 100.0, 0.0)
    scores: NDArray[Any] = 3.0 * rng.standard_normal(shape) + height[:, None]
    return scores


def top8(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    """Router probabilities; every second row comes from rounded logits and is full of ties."""
    logits = 2.0 * rng.standard_normal(shapes["probabilities"])
    logits[1::2] = np.round(logits[1::2])
    return {"probabilities": reference.router_softmax(logits)}


def rope(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    """Heads, and the tables of consecutive positions from somewhere in the first 1024."""
    tokens, head_dim = shapes["cos"]
    positions = int(rng.integers(0, 1024)) + np.arange(tokens)
    frequencies = ROPE_THETA ** (-np.arange(0, head_dim, 2) / head_dim)
    angles = np.tile(positions[:, None] * frequencies[None, :], 2)
    return {"x": rng.standard_normal(shapes["x"]), "cos": np.cos(angles), "sin": np.sin(angles)}


def aggregation(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    """Expert outputs, and weights in descending order that sum to 1."""
    raw = -np.sort(-rng.random(shapes["weights"]), axis=1)
    return {
        "expert_outputs": rng.standard_normal(shapes["expert_outputs"]),
        "weights": raw / np.sum(raw, axis=1, keepdims=True),
    }
