"""Windows whose place is read from memory: ``.ap`` with a scalar or vector offset.

The index is read when the DMA that uses the window executes, not when the window is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from . import indexing
from .constants import HBM, SBUF, OobMode
from .dtypes import Array
from .errors import IllegalProgram, NotModelled
from .indexing import Window
from .views import NkiTensor

INDEX_TYPES = ("int32", "uint32")


class IndirectTensor(NkiTensor):
    """A window with a dynamic offset; only DMAs take it, and resolve it first.

    Attributes:
        index: the SBUF tensor that holds the offset(s).
        vector: one row index per row of the window, instead of one offset for all of it.
        stride: elements of the base tensor per index step.
        row_count, limit: rows and elements of the base tensor.
    """

    __slots__ = ("index", "limit", "row_count", "stride", "vector")

    def __init__(
        self, base: NkiTensor, window: Window, index: NkiTensor, vector: bool, stride: int
    ) -> None:
        super().__init__(base.storage, *window, base.dtype)
        self.index = index
        self.vector = vector
        self.stride = stride
        self.row_count = base.shape[0]
        self.limit = base.size

    def elements(self, operation: str, oob: OobMode) -> tuple[Array, Array]:
        """Flat element numbers [shape] of the window now, and which rows [shape[0]] are in range.

        Raises:
            UninitialisedRead: the index has not been written.
            IllegalProgram: out of range while `oob` is error.
        """
        self.index.require_written(operation, "the dynamic offset")
        start = self.index.array.reshape(-1).astype(np.int64) * self.stride
        places = np.full(self.shape, self.offset, np.int64)
        for axis, (step, count) in enumerate(zip(self.strides, self.shape, strict=True)):
            if self.vector and axis == 0:
                step_values = start
            else:
                step_values = np.arange(count, dtype=np.int64) * step
            places += step_values.reshape((-1,) + (1,) * (len(self.shape) - axis - 1))
        if not self.vector:
            places += start[0]
        flat = places.reshape(self.shape[0], -1)
        inside = (flat.min(axis=1) >= 0) & (flat.max(axis=1) < self.limit)
        if self.vector:
            rows = self.index.array.reshape(-1).astype(np.int64)
            inside &= (rows >= 0) & (rows < self.row_count)
        else:
            self._refuse_straddling(operation, inside)
        if oob is OobMode.error and not inside.all():
            bad = self.index.array.reshape(-1)[int(np.argmin(inside)) if self.vector else 0]
            raise IllegalProgram(
                operation,
                f"a dynamic offset stays inside the tensor {self.storage.shape}",
                f"index {bad} into {self}",
                "correct the index, or pass oob_mode=nisa.oob_mode.skip",
            )
        return places, inside

    def mark_elements(self, places: Array) -> None:
        """Note that the elements with these flat numbers now hold a value."""
        storage = self.storage
        storage.dirty = True
        if storage.unwritten:
            itemsize = storage.element(self.dtype).itemsize
            mask = storage.written_flags(itemsize)
            mask.reshape(self.limit, itemsize // storage.unit)[places] = True
            storage.recount()

    def _refuse_straddling(self, operation: str, inside: Array) -> None:
        if inside.any() and not inside.all():
            raise NotModelled(
                operation, "a block that straddles the tensor's end is not modelled", str(self)
            )


def indirect_window(
    base: NkiTensor,
    pattern: Sequence[Sequence[int]],
    offset: int,
    scalar: object,
    vector: object,
    indirect_dim: int,
) -> IndirectTensor:
    """The window that ``base.ap`` makes with a dynamic offset (arguments as there)."""
    if scalar is not None and vector is not None:
        raise IllegalProgram("ap", "takes a scalar_offset or a vector_offset, not both")
    if base.buffer not in HBM:
        raise NotModelled(
            "ap",
            "dynamic offsets are modelled on HBM tensors",
            str(base),
            "move the data with a DMA",
        )
    if not 0 <= indirect_dim < base.ndim or (vector is not None and indirect_dim != 0):
        raise IllegalProgram(
            "ap", "indirect_dim is a dimension, and 0 with a vector_offset", repr(indirect_dim)
        )
    if vector is not None:  # the rows come from the index: the step written for them has no effect
        pattern = [(0, pattern[0][1]), *pattern[1:]]
    counts, steps, offset = indexing.access_pattern(base, pattern, offset)
    rows = counts[0] if vector is not None else 1
    index = _index_tensor(vector if vector is not None else scalar, rows)
    stride = math.prod(base.shape[indirect_dim + 1 :])
    window = (counts, steps, offset)
    return IndirectTensor(base, window, index, vector is not None, stride)


def _index_tensor(index: object, rows: int) -> NkiTensor:
    if not isinstance(index, NkiTensor):
        raise NotModelled(
            "ap",
            "a dynamic offset read from a register is not modelled",
            repr(index),
            "use an SBUF tile",
        )
    if index.buffer is not SBUF or index.dtype not in INDEX_TYPES or index.shape != (rows, 1):
        raise IllegalProgram(
            "ap", f"a dynamic offset is an int32 or uint32 tile ({rows}, 1) in SBUF", str(index)
        )
    return index
