"""Data types: the vendor's names (plain strings), their NumPy equivalents, and every conversion
between them.

Numbers enter an engine through `to_float32` and leave it through `store`, which rounds exactly
once: to nearest even for floating point (overflow becomes infinity), to nearest even with
saturation for integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from .errors import IllegalProgram

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class DType:
    """One Neuron data type.

    Attributes:
        name: the vendor's string.
        numpy: the NumPy (or ml_dtypes) type of the same bits.
        kind: ``float``, ``int``, ``bool`` or ``packed`` (four small floats in one word: data
            movement only).
        itemsize: bytes per element on the device.
    """

    name: str
    numpy: np.dtype[Any]
    kind: str
    itemsize: int


def _table() -> dict[str, DType]:
    floats = {
        "float32": np.float32,
        "tfloat32": np.float32,
        "bfloat16": ml_dtypes.bfloat16,
        "float16": np.float16,
        "float8_e4m3": ml_dtypes.float8_e4m3,
        "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
        "float8_e5m2": ml_dtypes.float8_e5m2,
        "float8_e8m0fnu": ml_dtypes.float8_e8m0fnu,
    }
    integers = ("int8", "int16", "int32", "uint8", "uint16", "uint32")
    packed = {
        "float8_e4m3fn_x4": np.uint32,
        "float8_e5m2_x4": np.uint32,
        "float4_e2m1fn_x4": np.uint16,
    }
    kinds: list[tuple[str, Any, str]] = [(name, kind, "float") for name, kind in floats.items()]
    kinds += [(name, name, "int") for name in integers]
    kinds += [("bool", np.uint8, "bool")]
    kinds += [(name, kind, "packed") for name, kind in packed.items()]
    return {n: DType(n, np.dtype(t), kind, np.dtype(t).itemsize) for n, t, kind in kinds}


TABLE: dict[str, DType] = _table()
"""Every data type that a tensor can have, by the vendor's name."""

FLOATS = tuple(name for name, t in TABLE.items() if t.kind == "float" and name != "float8_e8m0fnu")
INTEGERS = tuple(name for name, t in TABLE.items() if t.kind == "int")
NUMBERS = (*FLOATS, *INTEGERS, "bool")
FP8 = ("float8_e4m3", "float8_e5m2", "float8_e4m3fn")
MATMUL_TYPES = ("bfloat16", "float16", "float32", "tfloat32", *FP8)

_BY_NUMPY: dict[np.dtype[Any], str] = {
    t.numpy: name for name, t in TABLE.items() if t.kind in ("float", "int")
} | {np.dtype(np.bool_): "bool", np.dtype(np.float32): "float32"}
_INT_BOUNDS = {TABLE[n].numpy: (float(np.iinfo(n).min), float(np.iinfo(n).max)) for n in INTEGERS}
FLOAT32 = np.dtype(np.float32)
_BOOL = np.dtype(np.bool_)
_FROM_BYTE = {
    t.numpy: np.arange(256, dtype=np.uint8).view(t.numpy).astype(np.float32)
    for t in TABLE.values()
    if t.kind == "float" and t.itemsize == 1
}
"""The float32 of each bit pattern of the one-byte floats: looking up is 6 times faster."""


def lookup(name: object, operation: str) -> DType:
    """The data type called `name`.

    Raises:
        IllegalProgram: `name` is not one of the vendor's strings.
    """
    found = TABLE.get(name) if isinstance(name, str) else None
    if found is None:
        raise IllegalProgram(
            operation,
            f"dtype must be one of {', '.join(TABLE)}",
            repr(name),
            "use the names of nki.language, for instance nl.float32",
        )
    return found


def name_of(dtype: np.dtype[Any], operation: str) -> str:
    """The vendor's name of a NumPy data type.

    Raises:
        IllegalProgram: the device has no such type (64-bit numbers, for instance).
    """
    name = _BY_NUMPY.get(dtype)
    if name is None:
        raise IllegalProgram(
            operation,
            f"the device has no data type {dtype}",
            f"an array of {dtype}",
            "convert it before the call (there are no 64-bit types on the device)",
        )
    return name


def to_float32(values: Array) -> Array:
    """`values` as float32, the type in which engines compute; the same array when it already is."""
    if values.dtype is FLOAT32:
        return values
    if values.itemsize == 1 and values.size > 512:
        table = _FROM_BYTE.get(values.dtype)
        if table is not None:
            return np.asarray(table.take(values.view(np.uint8)))
    return values.astype(np.float32)


def round_to_tfloat32(values: Array) -> Array:
    """float32 `values` rounded to nearest even on 10 bits of mantissa, as the tensor engine reads
    tfloat32; memory keeps all 23.
    """
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))) & ~np.uint32(
        0x1FFF
    )
    finite = (bits & np.uint32(0x7F800000)) != 0x7F800000
    return np.where(finite, rounded, bits).view(np.float32)


def store(target: Array, values: Array) -> None:
    """Write `values` (float32, bool or integers) into `target`, rounding once to its data type."""
    bounds = _INT_BOUNDS.get(target.dtype)
    if bounds is None or values.dtype is target.dtype or values.dtype is _BOOL:
        target[...] = values
    else:
        target[...] = saturate(values, *bounds)


def saturate(values: Array, lowest: float, highest: float) -> Array:
    """`values` rounded to nearest even and clamped to [lowest, highest]; NaN becomes 0."""
    wide = np.rint(values.astype(np.float64))
    return np.nan_to_num(np.clip(wide, lowest, highest), nan=0.0)
