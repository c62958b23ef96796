"""How the kernel of a family is tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray
RELEASES = ("2.27", "2.28", "2.29", "2.30", "2.31", "2.32")
bfloat16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Case:
    """One kernel on one set of shapes.

    Attributes:
        kernel: what is launched.
        inputs: the kernel's arguments, from a random generator.
        reference: the NumPy equivalent; it takes the same arguments and returns as many results.
        tolerance: the largest error, relative to the largest value of a result: a few steps of the
            result's type.
        cores: on how many cores the kernel can run.
        platform: the oldest platform that has its instructions.
        since: the SDK whose compiler first takes its source.
        allowed: rules of the language check whose warnings are expected.
    """

    kernel: Any
    inputs: Callable[[np.random.Generator], tuple[Any, ...]]
    reference: Callable[..., Any]
    tolerance: float = 1e-6
    cores: tuple[int, ...] = (1, 2)
    platform: str = "trn2"
    since: str = "2.27"
    allowed: tuple[str, ...] = ()

    @property
    def releases(self) -> list[str]:
        """The SDKs whose compilers take the source."""
        return [release for release in RELEASES if release >= self.since]


def normal(
    rng: np.random.Generator, *shape: int, dtype: Any = np.float32, scale: float = 1.0
) -> Array:
    """Normally distributed values."""
    return (rng.standard_normal(shape) * scale).astype(dtype)


def single(array: Array) -> Array:
    """As fp32, exactly."""
    return np.asarray(array, np.float32)


def rounded(array: Array) -> Array:
    """Rounded to bf16 and back to fp32, as a tile of bf16 between two instructions does."""
    return single(array.astype(bfloat16))


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
