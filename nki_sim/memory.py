"""Storages: the bytes behind tensors, and which of their elements have been written.

Fresh memory is filled with 0xFF (NaN in every float type) and tracked element by element; see
`views` for the windows through which instructions reach it. The filling waits until something
looks at the bytes: an instruction that writes the whole storage first makes it unnecessary.
"""

from __future__ import annotations

import itertools
import math
import weakref
from typing import Any

import numpy as np

from .addresses import box_of
from .constants import HBM, PSUM, SHARED_HBM, MemoryRegion
from .dtypes import FLOAT32, TABLE, Array, DType
from .errors import IllegalProgram, NoNumbers
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
        length: how many bytes these are.
        hollow: it has no bytes (a launch on shapes); its first write counts as writing all of it.
        fresh: its bytes hold anything and must be filled before they are looked at.
        unit: bytes per element of `written`.
        unwritten: how many units have not been written; 0 is the fast path.
        written: which units have been written; None until the first partial write.
        foreign: PSUM only: units last written by something else than an accumulating matmul; None
            if there are none.
        dirty: a kernel has written to it.
        locked: it is an argument that the caller holds read-only.
        address, partition, box: explicit placement (`addresses`); None, 0 and zeros without one.
        rivals: the tensors at overlapping addresses; None if there are none.
        constant: no instruction may write it.
    """

    __slots__ = (
        "__weakref__", "_bytes", "address", "box", "constant", "dirty", "dtype", "foreign", "fresh",
        "hollow", "length", "locked", "name", "partition", "pool", "region", "rivals", "serial",
        "shape", "unit", "unwritten", "widened", "written",
    )  # fmt: skip

    def __init__(
        self,
        region: MemoryRegion,
        shape: Shape,
        dtype: DType,
        name: str,
        buffer: Array | None,
        widened: bool = False,
        hollow: bool = False,
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
        self.locked = False
        self.address: tuple[int, int] | None = None
        self.partition = 0
        self.box = (0, 0, 0, 0)
        self.rivals: list[weakref.ref[Storage]] | None = None
        self.constant = False
        self.hollow = hollow
        self.fresh = buffer is None and not hollow
        count = math.prod(shape)
        self.length = count * self.unit
        self._bytes = np.empty(self.length, np.uint8) if self.fresh else buffer
        self.unwritten = count if buffer is None else 0

    def __del__(self) -> None:
        if self.pool is not None:
            self.pool.release(self.serial)

    @property
    def buffer(self) -> Array:
        """The bytes; filled with 0xFF first where nothing has been written."""
        if self._bytes is None:
            raise NoNumbers(
                "reading memory",
                "a launch on shapes computes no numbers",
                f"{self.name or 'a tensor'} {self.shape} {self.dtype} in {self.region.name}",
                'run the kernel outside nki_sim.mode("shapes")',
            )
        if self.fresh:
            self._bytes.fill(0xFF)
            self.fresh = False
        return self._bytes

    def element(self, dtype: str) -> np.dtype[Any]:
        """The NumPy type in which elements of `dtype` are kept here."""
        found = TABLE[dtype]
        return FLOAT32 if self.widened and found.kind == "float" else found.numpy

    def written_flags(self, itemsize: int) -> Array:
        """The written mask, with units of at most `itemsize` bytes."""
        self._refine(itemsize)
        if self.written is None:
            fill = np.zeros if self.unwritten else np.ones
            self.written = fill(self.length // self.unit, np.bool_)
        return self.written

    def foreign_flags(self, itemsize: int) -> Array:
        """The foreign mask, with units of at most `itemsize` bytes."""
        self._refine(itemsize)
        if self.foreign is None:
            self.foreign = np.zeros(self.length // self.unit, np.bool_)
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

    def untrack(self) -> None:
        """Neither fill it nor track what is written, except what PSUM accumulation depends on."""
        self.fresh = False
        if self.region is not PSUM:
            self.unwritten = 0

    def freeze(self) -> None:
        """Refuse every write from now on."""
        self.constant = True
        self.rivals = []  # so that writes are looked at

    def complete(self) -> None:
        """Every element has now been written."""
        self.unwritten = 0
        self.written = None


def new_storage(
    program: Program, shape: Shape, dtype: DType, region: MemoryRegion, name: str
) -> Storage:
    """Fresh memory that is charged to nobody."""
    storage = Storage(
        region, shape, dtype, name, None, widened=not program.precise, hollow=not program.numeric
    )
    if not program.checked:
        storage.untrack()
    return storage


def allocate(
    program: Program,
    shape: Shape,
    dtype: DType,
    region: MemoryRegion,
    name: str,
    address: tuple[int, int] | None = None,
) -> Storage:
    """Uninitialised memory for a tensor of a running kernel.

    Args:
        program: who allocates; on-chip memory is charged to its pools until the last reference is
            gone.
        shape: for SBUF and PSUM the first dimension is the partition.
        dtype, region, name: of the tensor.
        address: explicit placement, (partition, byte offset); None leaves it to the compiler.

    Raises:
        IllegalProgram: an illegal shape or address, a name used twice, or no room.
    """
    _check_shape(shape, region)
    if name:
        program.claim_name("tensor", name, "nl.ndarray")
    if region is SHARED_HBM and program.seat is not None and address is None:
        shared: Storage = program.seat.shared_storage(program, shape, dtype, name)
        return shared
    storage = new_storage(program, shape, dtype, region, name)
    if address is not None:
        box = box_of(program, shape, dtype, region, address)
        _charge(program, storage, box[2:])
        program.place(region, storage, box)
        return storage
    if region in HBM:
        return storage
    _charge(program, storage, (0, math.prod(shape[1:]) * dtype.itemsize), anywhere=True)
    return storage


def _charge(
    program: Program, storage: Storage, span: tuple[int, int], anywhere: bool = False
) -> None:
    """Charge a tensor's bytes per partition, or its banks in PSUM, to the memory it is in."""
    first, end = span
    if storage.region is PSUM:
        first, end = first // PSUM_BANK_BYTES, -(-end // PSUM_BANK_BYTES)
    pool = program.pools[storage.region]
    if anywhere:
        pool.claim(storage, end - first)
    else:
        pool.claim_span(storage, first, end)
    storage.pool = pool


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
