"""Windows whose place is read from memory: ``.ap`` with a scalar or vector offset.

The index is read when the DMA that uses the window executes, not when the window is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from . import indexing
from .constants import SBUF, OobMode
from .dtypes import TABLE, Array
from .errors import IllegalProgram, NotModelled, UninitialisedRead
from .indexing import Shape, Window
from .machine import PARTITIONS
from .registers import VirtualRegister
from .views import NkiTensor

INDEX_TYPES = ("int32", "uint32")


class IndirectTensor(NkiTensor):
    """A window with a dynamic offset; only DMAs take it, and resolve it first.

    Attributes:
        index: the SBUF tensor, or the register, that holds the offset(s).
        vector: one row index per row of the window, instead of one offset for all of it.
        stride: elements of the base tensor per index step.
        row_count: what an index must be smaller than; None for a scalar offset of ``.ap``, which
            may reach any element of the tensor.
        limit: elements of the storage.
    """

    __slots__ = ("index", "limit", "row_count", "stride", "vector")

    def __init__(
        self,
        base: NkiTensor,
        window: Window,
        index: Index,
        vector: bool,
        stride: int,
        row_count: int | None,
    ) -> None:
        super().__init__(base.storage, *window, base.dtype)
        self.index = index
        self.vector = vector
        self.stride = stride
        self.row_count = row_count
        whole = math.prod(base.storage.shape) * TABLE[base.storage.dtype].itemsize
        self.limit = whole // base.itemsize

    # -- other windows -----------------------------------------------------------------------------

    @property
    def bound_dims(self) -> tuple[int, ...]:
        return (0,) if self.vector else ()

    def is_indirect(self) -> bool:
        return True

    def derive(self, shape: Shape, strides: Shape, offset: int) -> IndirectTensor:
        window = (shape, strides, offset)
        return IndirectTensor(self, window, self.index, self.vector, self.stride, self.row_count)

    def __getitem__(self, index: object) -> IndirectTensor:
        shape, strides, offset = indexing.basic_index(
            index, self.shape, self.strides, self.on_chip, self
        )
        if self.vector and indexing.first_index(index) not in (Ellipsis, slice(None)):
            raise IllegalProgram(
                "indexing", "leaves the rows that a vector_offset selects as they are", str(self)
            )
        return self.derive(shape, strides, self.offset + offset)

    def view(self, dtype: str) -> NkiTensor:
        if dtype == self.dtype:
            return self
        raise IllegalProgram(
            "view", "is taken before a dynamic offset", f"{dtype} of {self}", "reorder the calls"
        )

    reinterpret_cast = view

    def pattern_window(self, pattern: Sequence[Sequence[int]], offset: int) -> Window:
        raise IllegalProgram(
            "ap", "a tensor has at most one access pattern with a dynamic offset", str(self)
        )

    # -- the elements ------------------------------------------------------------------------------

    def on_chip_window(self, operation: str) -> NkiTensor:
        """The plain window that a scalar offset into SBUF or PSUM makes it now."""
        window = self.resolved(operation)
        row = self.row
        free = [s * (n - 1) for s, n in zip(self.strides[1:], self.shape[1:], strict=True)]
        if (
            window is None
            or window.offset // row != self.offset // row
            or window.offset % row + sum(free) >= row
        ):
            raise IllegalProgram(
                operation,
                f"a dynamic offset stays inside the partitions of the tensor {self.storage.shape}",
                f"index {int(self.index.array.reshape(-1)[0])} into {self}",
                "correct the index",
            )
        return window

    def resolved(self, operation: str) -> NkiTensor | None:
        """The plain window that a scalar offset makes it now; None unless that is all inside."""
        if self.vector:
            return None
        self.index.require_written(operation, "the dynamic offset")
        number = int(self.index.array.reshape(-1)[0])
        if self.row_count is not None and not 0 <= number < self.row_count:
            return None
        first = self.offset + number * self.stride
        last = first + sum(s * (n - 1) for s, n in zip(self.strides, self.shape, strict=True))
        if first < 0 or last >= self.limit:
            return None
        return NkiTensor(self.storage, self.shape, self.strides, first, self.dtype)

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
        if self.row_count is not None:
            rows = self.index.array.reshape(-1).astype(np.int64)
            inside &= (rows >= 0) & (rows < self.row_count)
        if not self.vector:
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

    def require_written(self, operation: str, role: str) -> None:
        """Raise UninitialisedRead unless every element that is selected now has been written."""
        storage = self.storage
        if storage.hollow or not storage.unwritten:
            super().require_written(operation, role)
            return
        places, inside = self.elements(operation, OobMode.skip)
        itemsize = storage.element(self.dtype).itemsize
        flags = storage.written_flags(itemsize).reshape(self.limit, itemsize // storage.unit)
        missing = ~flags[places[inside].reshape(-1)].all(axis=-1)
        if missing.any():
            number = int(places[inside].reshape(-1)[int(np.argmax(missing))])
            raise UninitialisedRead(
                operation,
                f"{role} must have been written before it is read",
                f"{self}, which selects element {number} of its tensor: never written",
                "write it first, or correct the index",
            )

    def storage_elements(self) -> Array:
        """All elements of the tensor behind the window."""
        kind = self.storage.element(self.dtype)
        return np.ndarray((self.limit,), kind, self.storage.buffer)

    def repeated_index(self, rows: Array) -> int | None:
        """With a vector offset: a row number that the chosen rows of the window select twice."""
        numbers = self.index.array.reshape(-1)[rows.reshape(-1)]
        found, counts = np.unique(numbers, return_counts=True)
        return int(found[np.argmax(counts)]) if (counts > 1).any() else None

    def index_is_written(self) -> bool:
        """Whether the offset can be read."""
        try:
            self.index.require_written("", "")
        except UninitialisedRead:
            return False
        return True

    def same_index(self, other: IndirectTensor) -> bool:
        """Whether another window's offset is the same tensor's."""
        if type(self.index) is not type(other.index):
            return False
        mine, theirs = _index_place(self.index), _index_place(other.index)
        return mine == theirs

    def is_dense_row(self) -> bool:
        """Whether each row of the window is contiguous."""
        return self.strides[1:] == indexing.row_major(self.shape)[1:]

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
    _check_dynamic_dim("ap", base, indirect_dim, vector is not None)
    if vector is not None:  # the rows come from the index: the step written for them has no effect
        pattern = _without_row_step(pattern)
    counts, steps, offset = base.pattern_window(pattern, offset)
    rows = counts[0] if vector is not None else 1
    index = _index_tensor(vector if vector is not None else scalar, rows, vector is not None)
    window = (counts, steps, offset)
    stride = base.strides[indirect_dim]
    count = base.shape[0] if vector is not None else None
    return IndirectTensor(base, window, index, vector is not None, stride, count)


def _without_row_step(pattern: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    counts, steps = indexing.pattern_pairs(pattern)
    return [[0, counts[0]], *([s, n] for s, n in zip(steps[1:], counts[1:], strict=True))]


def dynamic_select(view: NkiTensor, dim: int, index: object) -> IndirectTensor:
    """Element ``index[0, 0]`` of dimension `dim` (see `NkiTensor.select`)."""
    _check_dynamic_dim("select", view, dim, vector=False)
    first = view[(slice(None),) * dim + (0,)]
    window = (first.shape, first.strides, first.offset)
    found = _index_tensor(index, 1)
    return IndirectTensor(view, window, found, False, view.strides[dim], view.shape[dim])


def vector_select(view: NkiTensor, dim: int, index: object) -> IndirectTensor:
    """Row ``index[p, 0]`` in row p of the result (see `NkiTensor.vector_select`)."""
    if type(dim) is not int:
        raise IllegalProgram("vector_select", "dim is 0", repr(dim))
    _check_dynamic_dim("vector_select", view, dim, vector=True)
    rows = index.shape[0] if isinstance(index, NkiTensor) else 1
    found = _index_tensor(index, rows, vector=True)
    window = ((rows, *view.shape[1:]), (0, *view.strides[1:]), view.offset)
    return IndirectTensor(view, window, found, True, view.strides[0], view.shape[0])


def _check_dynamic_dim(operation: str, base: NkiTensor, dim: object, vector: bool) -> None:
    """Refuse dimensions that no dynamic offset can count."""
    if base.is_indirect():
        raise IllegalProgram(operation, "a tensor has at most one dynamic offset", str(base))
    if type(dim) is not int or not 0 <= dim < base.ndim or (vector and dim != 0):
        raise IllegalProgram(
            operation,
            "indirect_dim is a dimension, and 0 with a vector_offset",
            f"{dim!r} of {base}",
        )
    if vector and base.on_chip:
        raise IllegalProgram(
            operation,
            "a vector_offset selects rows of an HBM tensor",
            str(base),
            "use nisa.nc_n_gather or nisa.local_gather on chip",
        )
    if base.on_chip and dim == 0:
        raise IllegalProgram(
            operation,
            "a dynamic offset on chip counts a free dimension",
            f"dimension {dim} of {base}",
            "pass indirect_dim, or move the rows with a DMA",
        )
    if base.strides[dim] == 0 and base.shape[dim] > 1:
        raise IllegalProgram(
            operation, "a repeated dimension has no dynamic offset", f"dimension {dim} of {base}"
        )


class IndexColumns:
    """An index tile [P, M] whose columns follow one another: what DMAs read as P * M row numbers,
    of which the window uses the first `rows`.
    """

    __slots__ = ("rows", "tile")

    def __init__(self, tile: NkiTensor, rows: int) -> None:
        self.tile = tile
        self.rows = rows

    @property
    def array(self) -> Array:
        """The row numbers [rows, 1]."""
        return self.tile.rows().T.reshape(-1, 1)[: self.rows]

    def require_written(self, operation: str, role: str) -> None:
        """Raise UninitialisedRead unless the tile has been written."""
        self.tile.require_written(operation, role)


Index = NkiTensor | IndexColumns | VirtualRegister


def _index_tensor(index: object, rows: int, vector: bool = False) -> Index:
    if isinstance(index, VirtualRegister) and not vector:
        return index
    kind = "tile" if vector else "tile or a register"
    shape = f"({rows}, 1), or with {rows} elements in all," if vector and rows > 1 else "(1, 1)"
    legal = isinstance(index, NkiTensor) and index.buffer is SBUF and index.dtype in INDEX_TYPES
    if not legal or not isinstance(index, NkiTensor):
        raise _bad_index(kind, shape, index)
    if (index.partitions, index.free) == (rows, 1):
        return index
    if not vector or index.size < rows or (index.free > 1 and index.partitions != PARTITIONS):
        raise _bad_index(kind, shape, index)
    return IndexColumns(index, rows)


def _index_place(index: Index) -> object:
    if isinstance(index, VirtualRegister):
        return id(index)
    tile = index.tile if isinstance(index, IndexColumns) else index
    return tile.storage.serial, tile.shape, tile.strides, tile.offset


def _bad_index(kind: str, shape: str, index: object) -> IllegalProgram:
    return IllegalProgram(
        "ap",
        f"a dynamic offset is an int32 or uint32 {kind} {shape} in SBUF",
        str(index),
        "several columns of indices need 128 partitions",
    )
