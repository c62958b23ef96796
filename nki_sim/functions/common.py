"""What the tensor-returning functions share: checking arguments, fresh tiles, result types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..constants import PSUM, SBUF, MemoryRegion
from ..dtypes import TABLE, lookup
from ..errors import IllegalProgram
from ..machine import current
from ..memory import allocate
from ..views import NkiTensor, full_view

Shape = tuple[int, ...]
FLOAT32 = "float32"


def fresh(shape: Sequence[int], dtype: str, region: MemoryRegion = SBUF) -> NkiTensor:
    """An uninitialised tile of the running kernel."""
    program = current("nki.language")
    return full_view(allocate(program, tuple(shape), TABLE[dtype], region, ""))


def result_type(operation: str, dtype: object, default: str) -> str:
    """The data type asked for; Python's ``bool`` is a default of SDK 2.27."""
    if dtype is None:
        return default
    if dtype is bool:
        return "bool"
    return lookup(dtype, f"nl.{operation}").name


def tile(operation: str, role: str, value: object) -> NkiTensor:
    """`value` when it is a plain tensor on chip."""
    if not isinstance(value, NkiTensor) or not value.on_chip:
        raise IllegalProgram(
            f"nl.{operation}",
            f"{role} is a tile in SBUF or PSUM",
            str(value) if isinstance(value, NkiTensor) else repr(value),
            "load it first (nl.load)",
        )
    return value


def as_rows(value: NkiTensor) -> NkiTensor:
    """The free dimensions merged into one, by copying where no view does it."""
    if value.ndim == 2:
        return value
    if value.is_contiguous():
        return value.reshape((value.partitions, value.free))
    made = fresh((value.partitions, value.free), value.dtype)
    from ..engines.copies import TensorCopy  # imports views

    TensorCopy(made, value).issue()
    return made


def promoted(left: str, right: str) -> str:
    """The type of higher precision; float32 (or int32) where neither contains the other."""
    if left == right:
        return left
    a, b = TABLE[left], TABLE[right]
    if a.kind == "float" and b.kind == "float":
        if a.itemsize != b.itemsize:
            return left if a.itemsize > b.itemsize else right
        return FLOAT32
    if "float" in (a.kind, b.kind):
        return left if a.kind == "float" else right
    if a.itemsize != b.itemsize:
        return left if a.itemsize > b.itemsize else right
    if "bool" in (a.kind, b.kind):
        return left if b.kind == "bool" else right
    return "int32"


def trailing_axes(operation: str, x: NkiTensor, axis: Any) -> int:
    """How many trailing free dimensions `axis` names.

    Raises:
        IllegalProgram: the partition, a dimension that is not among the last, or none.
    """
    axes = list(axis) if isinstance(axis, list | tuple) else [axis]
    rank = x.ndim
    legal = bool(axes) and all(type(a) is int and -rank <= a < rank for a in axes)
    places = sorted(a % rank for a in axes) if legal else []
    if not legal or places != list(range(rank - len(axes), rank)) or places[0] == 0:
        raise IllegalProgram(
            f"nl.{operation}",
            f"axis names the last free dimensions, up to {rank - 1}",
            f"axis={axis!r} on {x}",
            "make the reduced dimensions the last",
        )
    return len(axes)


def is_psum(value: object) -> bool:
    """Whether a value is a tensor in PSUM."""
    return isinstance(value, NkiTensor) and value.buffer is PSUM
