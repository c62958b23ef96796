"""Storages: the bytes behind tensors, and which of their elements have been written.

Fresh memory is filled with 0xFF (NaN in every float type) and tracked element by element; see
`views` for the windows through which instructions reach it.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from .constants import HBM, PSUM, MemoryRegion
from .dtypes import FLOAT32, TABLE, Array, DType
from .errors import IllegalProgram
from .machine import PARTITIONS, PSUM_BANK_BYTES, Program
from .pools import Pool

Shape = tuple[int, ...]

_serials = itertools.count(1)


class Storage:
    """One allocation.

    Attributes:
        region: the memory it lives in.
        shape, dtype, name: as allocated.
        serial: unique number, in order of allocation.
        widened: low-precision floats are kept as float32 (NKI_PRECISE_FP=0).
        buffer: its bytes, as a flat uint8 array.
        unit: bytes per element of `written`.
        unwritten: how many units have not been written; 0 is the fast path.
        written: which units have been written; None until the first partial write.
        foreign: PSUM only: units last written by something else than an accumulating matmul; None
            if there are none.
        dirty: a kernel has written to it.
    """

    __slots__ = (
        "buffer", "dirty", "dtype", "foreign", "name", "pool", "region", "serial", "shape", "unit",
        "unwritten", "widened", "written",
    )  # fmt: skip

    def __init__(
        self,
        region: MemoryRegion,
        shape: Shape,
        dtype: DType,
        name: str,
        buffer: Array | None,
        widened: bool = False,
    ) -> None:
        self.region = region
        self.shape = shape
        self.dtype = dtype.name
        self.name = name
        self.serial = next(_serials)
        self.widened = widened
        self.unit = self.element(dtype.name).itemsize
        self.pool: Pool | None = None
        self.written: Array | None = None
        self.foreign: Array | None = None
        self.dirty = False
        if buffer is None:
            count = math.prod(shape)
            self.buffer = np.empty(count * self.unit, np.uint8)
            self.buffer.fill(0xFF)
            self.unwritten = count
        else:
            self.buffer = buffer
            self.unwritten = 0

    def __del__(self) -> None:
        if self.pool is not None:
            self.pool.release(self.serial)

    def element(self, dtype: str) -> np.dtype[Any]:
        """The NumPy type in which elements of `dtype` are kept here."""
        found = TABLE[dtype]
        return FLOAT32 if self.widened and found.kind == "float" else found.numpy

    def written_flags(self, itemsize: int) -> Array:
        """The written mask, with units of at most `itemsize` bytes."""
        self._refine(itemsize)
        if self.written is None:
            fill = np.zeros if self.unwritten else np.ones
            self.written = fill(self.buffer.size // self.unit, np.bool_)
        return self.written

    def foreign_flags(self, itemsize: int) -> Array:
        """The foreign mask, with units of at most `itemsize` bytes."""
        self._refine(itemsize)
        if self.foreign is None:
            self.foreign = np.zeros(self.buffer.size // self.unit, np.bool_)
        return self.foreign

    def _refine(self, itemsize: int) -> None:
        """Make units no larger than `itemsize` bytes."""
        if itemsize >= self.unit:
            return
        parts = self.unit // itemsize
        self.written = None if self.written is None else np.repeat(self.written, parts)
        self.foreign = None if self.foreign is None else np.repeat(self.foreign, parts)
        self.unwritten *= parts
        self.unit = itemsize

    def recount(self) -> None:
        """Count again how many units have not been written."""
        if self.written is not None:
            self.unwritten = self.written.size - int(np.count_nonzero(self.written))
            if not self.unwritten:
                self.complete()

    def complete(self) -> None:
        """Every element has now been written."""
        self.unwritten = 0
        self.written = None


def allocate(
    program: Program, shape: Shape, dtype: DType, region: MemoryRegion, name: str
) -> Storage:
    """Uninitialised memory for a tensor of a running kernel.

    Args:
        program: who allocates; on-chip memory is charged to its pools until the last reference is
            gone.
        shape: for SBUF and PSUM the first dimension is the partition.
        dtype, region, name: of the tensor.

    Raises:
        IllegalProgram: an illegal shape, a name used twice, or no room.
    """
    _check_shape(shape, region)
    if name:
        program.claim_name("tensor", name, "nl.ndarray")
    storage = Storage(region, shape, dtype, name, None, widened=not program.precise)
    if region in HBM:
        return storage
    amount = math.prod(shape[1:]) * dtype.itemsize
    if region is PSUM:
        amount = -(-amount // PSUM_BANK_BYTES)
    pool = program.pools[region]
    pool.claim(storage.serial, (name, shape, dtype.name), amount)
    storage.pool = pool
    return storage


def _check_shape(shape: Shape, region: MemoryRegion) -> None:
    if not shape or any(type(size) is not int or size < 1 for size in shape):
        raise IllegalProgram(
            "nl.ndarray", "every dimension is a positive integer", f"shape {shape}"
        )
    if region in HBM:
        return
    if len(shape) < 2:
        raise IllegalProgram(
            "nl.ndarray",
            f"a tensor in {region.name} has a partition and at least one free dimension",
            f"shape {shape}",
            "use (P, 1) for one value per partition",
        )
    if shape[0] > PARTITIONS:
        raise IllegalProgram(
            "nl.ndarray",
            f"dimension 0 of a tensor in {region.name} is the partition, at most {PARTITIONS}",
            f"shape {shape}",
            f"split it into tiles of {PARTITIONS} rows",
        )
