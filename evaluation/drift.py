"""How far the hidden states of two models have drifted apart, layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SIGNIFICANT_BITS = {"float32": 24, "bfloat16": 8, "float16": 11}

States = NDArray[np.float32]


def drift(expected: States, actual: States, dtype: str) -> list[dict[str, Any]]:
    """The difference of hidden states [2, L, H] (after a prefill, after a decode step), per layer.

    `relative` is that of the Euclidean norms. `largest_ulps` is the largest difference of an
    element in units of the last place that `dtype` has at the root mean square of the expected
    state: not at the element itself, since elements near zero are sums of large ones.
    """
    return [
        {"phase": phase, "layer": layer, **_difference(*pair, SIGNIFICANT_BITS[dtype])}
        for phase, states in zip(
            ("prefill", "decode_step"), zip(expected, actual, strict=True), strict=True
        )
        for layer, pair in enumerate(zip(*states, strict=True))
    ]


def _difference(expected: States, actual: States, bits: int) -> dict[str, float]:
    wanted = expected.astype(np.float64)
    error = actual.astype(np.float64) - wanted
    _, exponent = np.frexp(np.sqrt(np.mean(np.square(wanted))))
    return {
        "relative": float(np.linalg.norm(error) / np.linalg.norm(wanted)),
        "largest_ulps": float(np.max(np.abs(error)) / 2.0 ** (int(exponent) - bits)),
    }
