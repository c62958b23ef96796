"""``nl.zeros``, ``nl.shared_constant``, ``nl.rand``, ...: tensors with something in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..constants import HBM, SBUF, SHARED_HBM, MemoryRegion
from ..dtypes import TABLE, Array, lookup, name_of, store, to_float32
from ..engines import copies, dma, random_numbers, vector
from ..errors import IllegalProgram
from ..host_tensors import TraceTimeTensor
from ..machine import current
from ..memory import Storage, allocate
from ..nki._surface import vendor
from ..operators import OPS
from ..views import NkiTensor, full_view
from .common import FLOAT32, fresh, result_type, tile
from .elementwise import copied


def make(
    operation: str,
    shape: Any,
    dtype: Any,
    buffer: Any,
    name: str,
    address: tuple[int, int] | None = None,
) -> NkiTensor:
    """An uninitialised tensor; the arguments of ``nl.ndarray``, checked."""
    region = SBUF if buffer is None else buffer
    if not isinstance(region, MemoryRegion):
        raise IllegalProgram(
            operation,
            "buffer is nl.sbuf, nl.psum, nl.private_hbm or nl.shared_hbm",
            repr(buffer),
        )
    if not isinstance(shape, list | tuple):
        raise IllegalProgram(operation, "the shape is a tuple of integers", repr(shape))
    program = current(operation)
    kind = lookup(dtype, operation)
    return full_view(allocate(program, tuple(shape), kind, region, name, address))


@vendor
def full(
    shape: Sequence[int],
    fill_value: float,
    dtype: str,
    buffer: MemoryRegion | None = SBUF,
    name: str = "",
) -> NkiTensor:
    """A tensor filled with a number."""
    return _full("nl.full", shape, fill_value, dtype, buffer, name)


@vendor
def zeros(
    shape: Sequence[int], dtype: str, buffer: MemoryRegion | None = SBUF, name: str = ""
) -> NkiTensor:
    """A tensor filled with zeros."""
    return _full("nl.zeros", shape, 0, dtype, buffer, name)


@vendor
def ones(
    shape: Sequence[int], dtype: str, buffer: MemoryRegion | None = SBUF, name: str = ""
) -> NkiTensor:
    """A tensor filled with ones."""
    return _full("nl.ones", shape, 1, dtype, buffer, name)


def _full(
    operation: str, shape: Any, value: float, dtype: Any, buffer: Any, name: str
) -> NkiTensor:
    """memset; HBM is filled by a DMA that repeats one element."""
    made = make(operation, shape, dtype, buffer, name)
    if made.buffer not in HBM:
        copies.Memset(made, value).issue()
        return made
    seed = fresh((1, 1), made.dtype)
    copies.Memset(seed, value).issue()
    dma.DmaCopy(made, seed.broadcast(1, made.size)).issue()
    return made


@vendor
def empty_like(
    x: NkiTensor, dtype: str | None = None, buffer: MemoryRegion | None = None, name: str = ""
) -> NkiTensor:
    """An uninitialised tensor of x's shape, type and memory."""
    x = _like("empty_like", x)
    kind = result_type("empty_like", dtype, x.dtype)
    return make("nl.empty_like", x.shape, kind, buffer or x.buffer, name)


@vendor
def zeros_like(
    x: NkiTensor, dtype: str | None = None, buffer: MemoryRegion | None = None, name: str = ""
) -> NkiTensor:
    """Zeros of x's shape and type, in SBUF unless told otherwise."""
    x = _like("zeros_like", x)
    kind = result_type("zeros_like", dtype, x.dtype)
    return _full("nl.zeros_like", x.shape, 0, kind, buffer, name)


def _like(operation: str, x: object) -> NkiTensor:
    if not isinstance(x, NkiTensor):
        raise IllegalProgram(f"nl.{operation}", "x is a tensor", repr(x))
    return x


# -- constants -------------------------------------------------------------------------------------


@vendor
def shared_constant(constant: Any, dtype: str | None = None) -> NkiTensor:
    """A read-only tensor in shared HBM.

    Args:
        constant: a NumPy array, the path of a ``.npy`` file, or a tensor of ``nki.tensor``.
        dtype: convert to this type (SDK 2.27 and 2.28).
    """
    program = current("nl.shared_constant")
    array = _constant_array(constant)
    if array.ndim == 0 or array.size == 0:
        raise IllegalProgram(
            "nl.shared_constant", "the constant has a dimension and elements", str(array.shape)
        )
    if dtype is not None:
        array = _converted(array, result_type("shared_constant", dtype, FLOAT32))
    kind = TABLE[name_of(array.dtype, "nl.shared_constant")]
    widened = not program.precise and kind.kind == "float" and kind.name != FLOAT32
    dense = np.array(array, np.float32 if widened else None, order="C")
    data = dense.reshape(-1).view(np.uint8)
    storage = Storage(SHARED_HBM, array.shape, kind, "", data, widened)
    storage.freeze()
    return full_view(storage)


def _constant_array(constant: Any) -> Array:
    if isinstance(constant, TraceTimeTensor):
        return constant.values
    if isinstance(constant, np.ndarray):
        return constant
    if not isinstance(constant, str | Path):
        raise IllegalProgram(
            "nl.shared_constant", "a constant is a NumPy array or a .npy file", repr(constant)
        )
    try:
        return np.asarray(np.load(constant, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise IllegalProgram(
            "nl.shared_constant", "the file is a readable .npy array", f"{constant}: {error}"
        ) from None


def _converted(array: Array, kind: str) -> Array:
    if array.dtype == TABLE[kind].numpy:
        return array
    made = np.empty(array.shape, TABLE[kind].numpy)
    store(made, to_float32(array))
    return made


@vendor
def shared_identity_matrix(n: int, dtype: str = "uint8", dst: NkiTensor | None = None) -> NkiTensor:
    """An identity matrix [n, n] in SBUF."""
    from ..engines.gpsimd import AffineSelect

    made = make("nl.shared_identity_matrix", (n, n), dtype, SBUF, "") if dst is None else dst
    copies.Memset(made, 0).issue()
    AffineSelect(made, [[-1, n]], 1, made, 1.0, OPS["not_equal"]).issue()
    return made


# -- random numbers --------------------------------------------------------------------------------


@vendor
def rand(
    shape: Sequence[int], dtype: str, buffer: MemoryRegion | None = SBUF, name: str = ""
) -> NkiTensor:
    """Uniform random numbers in [0, 1), from 24 random bits each, before they are rounded."""
    made = make("nl.rand", shape, dtype, buffer, name)
    tile("rand", "the result", made)
    bits = fresh(made.shape, "uint32")
    random_numbers.Rng(bits).issue()
    vector.TensorScalar(bits, bits, OPS["right_shift"], 8).issue()
    vector.TensorScalar(made, bits, OPS["multiply"], 2.0**-24).issue()
    return made


@vendor
def random_seed(seed: NkiTensor) -> None:
    """Seed the vector engine's generator with a (1, 1) tile of 32 bits."""
    random_numbers.SetRngSeed(tile("random_seed", "seed", seed)).issue()


@vendor
def dropout(x: NkiTensor, rate: Any, dtype: str | None = None) -> NkiTensor:
    """`x` with elements set to zero with probability `rate`, a number or a column (P, 1)."""
    x = tile("dropout", "x", x)
    made = fresh(x.shape, x.dtype)
    random_numbers.Dropout(made, x, rate).issue()
    kind = result_type("dropout", dtype, x.dtype)
    return made if kind == x.dtype else copied(made, kind)
