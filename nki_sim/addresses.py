"""Explicit placement: ``nl.ndarray(..., address=(partition, byte offset))``.

Tensors at explicit addresses may overlap: kernels with their own allocator reuse an address while
Python still holds the tensor that was there. Each keeps bytes of its own, and a write to one makes
the overlapped elements of the others unwritten, so that reading what another tensor has overwritten
is refused and reusing an address is not. Reading a tensor's bytes through another one at the same
address is refused by the same rule.
"""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from .constants import HBM, PSUM, MemoryRegion
from .errors import IllegalProgram
from .machine import PARTITIONS, PSUM_BANK_BYTES, PSUM_BANKS, Program
from .schedule import advise

if TYPE_CHECKING:
    from .dtypes import Array, DType
    from .memory import Storage

Shape = tuple[int, ...]
Box = tuple[int, int, int, int]
"""First partition, end partition, first byte, end byte."""

_OPERATION = "nl.ndarray"


def box_of(program: Program, shape: Shape, dtype: DType, region: MemoryRegion, address: Any) -> Box:
    """Where a tensor at `address` lies.

    Raises:
        IllegalProgram: not an address of that memory, or the tensor does not fit there.
    """
    if region in HBM:
        raise _refuse("only tensors in SBUF and PSUM have an address", repr(address))
    legal = isinstance(address, list | tuple) and len(address) == 2
    if not legal or any(type(part) is not int or part < 0 for part in address):
        raise _refuse("an address is (first partition, byte offset in it)", repr(address))
    partition, start = address
    size = math.prod(shape[1:]) * dtype.itemsize
    room = PSUM_BANKS * PSUM_BANK_BYTES if region is PSUM else program.platform.sbuf_bytes
    if partition + shape[0] > PARTITIONS or start + size > room:
        raise _refuse(
            f"a tensor lies inside the {PARTITIONS} partitions of {room} bytes of {region.name}",
            f"{shape} {dtype.name} at {address}: partitions {partition} to "
            f"{partition + shape[0] - 1}, bytes {start} to {start + size - 1}",
        )
    if region is PSUM and start % PSUM_BANK_BYTES:
        raise _refuse(
            f"a PSUM address is the start of a bank, a multiple of {PSUM_BANK_BYTES} bytes",
            f"byte {start}",
        )
    if start % dtype.itemsize:
        raise _refuse(
            f"an address is a multiple of the element size, {dtype.itemsize}", f"byte {start}"
        )
    return partition, partition + shape[0], start, start + size


def _refuse(rule: str, received: str) -> IllegalProgram:
    return IllegalProgram(_OPERATION, rule, received, "correct the address, or leave it out")


class Places:
    """The tensors at explicit addresses of one memory, and their boxes in the same order."""

    def __init__(self) -> None:
        self.tensors: list[weakref.ref[Storage]] = []
        self.boxes = np.empty((64, 4), np.int64)

    def add(self, storage: Storage, box: Box, tracked: bool) -> None:
        """Place `storage`; if `tracked`, it and what it overlaps know of each other from now on."""
        storage.address, storage.partition, storage.box = (box[0], box[2]), box[0], box
        if not tracked:
            return
        for number in self._overlapping(box):
            other = self.tensors[number]()
            if other is not None:
                other.rivals = other.rivals or []
                other.rivals.append(weakref.ref(storage))
                storage.rivals = storage.rivals or []
                storage.rivals.append(self.tensors[number])
        if len(self.tensors) == len(self.boxes):
            self._make_room()
        self.boxes[len(self.tensors)] = box
        self.tensors.append(weakref.ref(storage))

    def _overlapping(self, box: Box) -> list[int]:
        """The numbers of the tensors that share bytes with a box."""
        boxes = self.boxes[: len(self.tensors)]
        apart = (boxes[:, 0] >= box[1]) | (boxes[:, 1] <= box[0])
        apart |= (boxes[:, 2] >= box[3]) | (boxes[:, 3] <= box[2])
        numbers: list[int] = np.flatnonzero(~apart).tolist()
        return numbers

    def _make_room(self) -> None:
        """Drop the tensors that are gone, or find more room if there are few of these."""
        kept = [number for number, tensor in enumerate(self.tensors) if tensor() is not None]
        self.tensors = [self.tensors[number] for number in kept]
        boxes = np.empty((max(64, 2 * len(kept)), 4), np.int64)
        boxes[: len(kept)] = self.boxes[kept]
        self.boxes = boxes


def warn_mixed(region: MemoryRegion) -> None:
    """Say that explicit and automatic placement are mixed."""
    advise(
        f"nl.ndarray: tensors with and without an address are mixed in {region.name}; here the "
        "latter never overlap the former, the compiler may refuse it"
    )


def invalidate_rivals(storage: Storage, touched: Array) -> None:
    """Forget what other tensors held where `storage` has been written.

    Args:
        storage: one with rivals.
        touched: bool, its bytes, flat.
    """
    first, end, start, stop = storage.box
    grid = touched.reshape(end - first, stop - start)
    for reference in storage.rivals or []:
        other = reference()
        if other is None or other.unwritten * other.unit == other.length:
            continue  # there is nothing to forget
        common = _overlap(storage.box, other.box)
        assert common is not None
        rows, columns = _window(common, storage.box)
        hit = grid[rows, columns]
        flags = other.written_flags(1).reshape(other.box[1] - other.box[0], -1)
        rows, columns = _window(common, other.box)
        flags[rows, columns] &= ~hit
        other.recount()


def _overlap(left: Box, right: Box) -> Box | None:
    box = (
        max(left[0], right[0]),
        min(left[1], right[1]),
        max(left[2], right[2]),
        min(left[3], right[3]),
    )
    return box if box[0] < box[1] and box[2] < box[3] else None


def _window(inner: Box, outer: Box) -> tuple[slice, slice]:
    """`inner` in the coordinates of `outer`."""
    return (
        slice(inner[0] - outer[0], inner[1] - outer[0]),
        slice(inner[2] - outer[2], inner[3] - outer[2]),
    )
