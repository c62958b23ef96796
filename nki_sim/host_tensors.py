"""Tensors that exist while a kernel is traced: ``nki.tensor.zeros``, ``identity``, ``arange``.

They hold constants for ``nl.shared_constant`` and know arithmetic with numbers and each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .dtypes import Array, lookup
from .errors import IllegalProgram


class TraceTimeTensor:
    """A constant array; operators return new ones."""

    __hash__ = object.__hash__

    def __init__(self, values: Array) -> None:
        self.values = values

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.values.shape

    def __repr__(self) -> str:
        return f"<constant {self.shape} {self.values.dtype}>"

    def _combined(self, function: Callable[[Array, Any], Any], other: object) -> TraceTimeTensor:
        if isinstance(other, TraceTimeTensor):
            other = other.values
        elif type(other) not in (int, float):
            raise IllegalProgram("nki.tensor", "constants combine with numbers", repr(other))
        return TraceTimeTensor(np.asarray(function(self.values, other), self.values.dtype))

    def __add__(self, other: object) -> TraceTimeTensor:
        return self._combined(np.add, other)

    def __sub__(self, other: object) -> TraceTimeTensor:
        return self._combined(np.subtract, other)

    def __mul__(self, other: object) -> TraceTimeTensor:
        return self._combined(np.multiply, other)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: object) -> TraceTimeTensor:
        return self._combined(lambda a, b: np.subtract(b, a), other)

    def __neg__(self) -> TraceTimeTensor:
        return self._combined(np.multiply, -1)


def _numpy(dtype: str, operation: str) -> Any:
    return lookup(dtype, operation).numpy


def zeros(shape: Sequence[int], dtype: str = "float32") -> TraceTimeTensor:
    """Zeros."""
    return TraceTimeTensor(np.zeros(tuple(shape), _numpy(dtype, "nki.tensor.zeros")))


def ones(shape: Sequence[int], dtype: str = "float32") -> TraceTimeTensor:
    """Ones."""
    return TraceTimeTensor(np.ones(tuple(shape), _numpy(dtype, "nki.tensor.ones")))


def identity(n: int, dtype: str = "float32") -> TraceTimeTensor:
    """An identity matrix [n, n]."""
    return TraceTimeTensor(np.eye(n).astype(_numpy(dtype, "nki.tensor.identity")))


def arange(
    start: int, stop: int | None = None, step: int = 1, dtype: str = "int32"
) -> TraceTimeTensor:
    """The numbers of a range, as a vector."""
    numbers = np.arange(start) if stop is None else np.arange(start, stop, step)
    return TraceTimeTensor(numbers.astype(_numpy(dtype, "nki.tensor.arange")))
