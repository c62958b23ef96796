"""Random arguments of the prefill attention block's kernels; see `kernels.samples`."""

from __future__ import annotations

import numpy as np

from kernels.samples import Arrays, Shapes, rope


def qkv(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    """Rows of three sizes (of the last, eps matters), and norms of queries and keys that differ."""
    (tokens, hidden), head_dim = shapes["x"], shapes["cos"][1]
    sizes = np.array([1.0, 30.0, 2e-3])[np.arange(tokens) % 3, None]
    rows = {
        name: sizes * rng.standard_normal(shapes[name])
        for name in ("x", "residual")
        if name in shapes
    }
    tables = rope(rng, {"x": (1,), "cos": shapes["cos"]})
    return rows | {
        "norm_weight": 1.0 + 0.2 * rng.standard_normal(hidden),
        "w_qkv": rng.standard_normal(shapes["w_qkv"], dtype=np.float32) * hidden**-0.5,
        "q_norm": 1.5 + 0.3 * rng.standard_normal(head_dim),
        "k_norm": 0.8 + 0.2 * rng.standard_normal(head_dim),
        "cos": tables["cos"],
        "sin": tables["sin"],
    }


def attention(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    """Scores with a deviation of 3, so that some keys have most of a query's attention."""
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return arrays | {"q": 3.0 * arrays["q"]}


def output_projection(rng: np.random.Generator, shapes: Shapes) -> Arrays:
    """Attended values, and weights that keep their size."""
    heads, head_dim, _ = shapes["attended"]
    weight = rng.standard_normal(shapes["w_o"], dtype=np.float32)
    return {
        "attended": rng.standard_normal(shapes["attended"]),
        "w_o": weight * (heads * head_dim) ** -0.5,
    }
