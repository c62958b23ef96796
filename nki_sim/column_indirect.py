"""Tensor indirection (trn3): on-chip windows whose columns are chosen by offsets in memory.

Every group of 16 partitions (32 on the tensor engine) has one list of offsets, stored in a snake:
offset i of the group that starts at row g is ``index[g + i % 16, i // 16]``, and counts elements of
the free dimension. An instruction that reads such a window gathers first; one that writes it
scatters afterwards.
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from .constants import PSUM, SBUF, Engine, NcVersion
from .dtypes import TABLE, Array
from .errors import IllegalProgram
from .machine import current
from .memory import Storage
from .views import NkiTensor, full_view

INDEX_TYPE = "uint16"


class ColumnIndirect(NkiTensor):
    """The columns of `source` at the offsets in `index`; only instructions look at it.

    Attributes:
        source: the on-chip window that is gathered from or scattered to.
        index: SBUF uint16 [partitions of source, K].
    """

    __slots__ = ("index", "source")

    def __init__(self, source: NkiTensor, index: NkiTensor, columns: int) -> None:
        super().__init__(
            source.storage,
            (source.partitions, columns),
            (source.strides[0], 0),
            source.offset,
            source.dtype,
        )
        self.source = source
        self.index = index

    @property
    def bound_dims(self) -> tuple[int, ...]:
        return 0, 1

    def is_indirect(self) -> bool:
        return True

    @property
    def array(self) -> Array:
        raise self._refuse("is an operand of an instruction, nothing else")

    def __getitem__(self, index: object) -> NoReturn:
        raise self._refuse("is not indexed further")

    def derive(self, *_: object) -> NoReturn:
        raise self._refuse("is not viewed further")

    def view(self, dtype: str) -> NoReturn:
        raise self._refuse("is not viewed further")

    reinterpret_cast = view

    def pattern_window(self, *_: object) -> NoReturn:
        raise self._refuse("is not viewed further")

    def _refuse(self, rule: str) -> IllegalProgram:
        return IllegalProgram(
            "indirect", f"a tensor with column offsets {rule}", str(self), "take views before"
        )

    # -- what instructions do with it --------------------------------------------------------------

    def offsets(self, operation: str, engine: Engine) -> Array:
        """Column numbers [partitions, columns] now.

        Raises:
            UninitialisedRead: an offset that is used has not been written.
            IllegalProgram: too few offsets, or one outside the partition.
        """
        group = 32 if engine is Engine.tensor else 16
        rows, columns = self.shape
        numbers = np.arange(columns)
        lines, places = numbers % group, numbers // group
        first = np.arange(rows)[:, None] // group * group
        if int(places.max()) >= self.index.free or int((first + lines).max()) >= rows:
            raise IllegalProgram(
                operation,
                f"every group of {group} partitions holds one offset per column",
                f"{columns} columns from {self.index}",
                f"pass num_elem, at most {group * self.index.free}, and whole groups of rows",
            )
        written = self.index.written_map().reshape(rows, -1)[first + lines, places]
        if not written.all():
            self.index.require_written(operation, "the column offsets")
        found = self.index.rows()[first + lines, places].astype(np.int64)
        if int(found.max()) >= self.source.free:
            raise IllegalProgram(
                operation,
                f"a column offset is smaller than the {self.source.free} elements per partition",
                f"offset {int(found.max())} into {self.source}",
            )
        return found

    def gathered(self, operation: str, engine: Engine) -> NkiTensor:
        """A plain tensor with the elements that the offsets select now."""
        places = self.offsets(operation, engine)
        written = self.source.written_map().reshape(self.source.partitions, -1)
        if not np.take_along_axis(written, places, axis=1).all():
            self.source.require_written(operation, "the tensor behind column offsets")
        values = np.take_along_axis(self.source.rows(), places, axis=1)
        return self._temporary(np.ascontiguousarray(values).reshape(-1).view(np.uint8))

    def target(self) -> NkiTensor:
        """A plain tensor for an instruction to write instead; `scatter` then takes it over."""
        return self._temporary(None)

    def scatter(self, result: NkiTensor, operation: str, engine: Engine) -> None:
        """Write the elements of `result` to where the offsets point."""
        places = self.offsets(operation, engine)
        rows = np.arange(self.source.partitions)[:, None]
        chosen = np.zeros((self.source.partitions, self.source.free), np.bool_)
        chosen[rows, places] = True
        merged = self.source.rows().copy()
        merged[rows, places] = result.rows()
        self.source.array[...] = merged.reshape(self.source.shape)
        self.source.mark_written_where(chosen.reshape(self.source.shape))
        if self.source.buffer is PSUM:
            self.source.foreign_mask()[chosen.reshape(self.source.shape)] = True

    def _temporary(self, data: Array | None) -> NkiTensor:
        """A tensor of this shape and type; the account takes it for the source's."""
        storage = self.source.storage
        made = Storage(
            storage.region, self.shape, TABLE[self.dtype], storage.name, data, storage.widened
        )
        made.serial = storage.serial
        made.partition = self.source.start_partition
        return full_view(made)


def column_indirect(source: NkiTensor, index: object, columns: int | None) -> ColumnIndirect:
    """See `NkiTensor.indirect`."""
    from .engines.base import require_platform  # imports views

    require_platform("indirect", "tensor indirection", NcVersion.gen4)
    current("indirect")
    if not source.on_chip or source.is_indirect():
        raise IllegalProgram("indirect", "selects columns of a tensor in SBUF or PSUM", str(source))
    legal = isinstance(index, NkiTensor) and type(index) is NkiTensor
    if (
        not legal
        or index.buffer is not SBUF  # type: ignore[attr-defined]
        or index.dtype != INDEX_TYPE  # type: ignore[attr-defined]
        or index.partitions != source.partitions  # type: ignore[attr-defined]
    ):
        raise IllegalProgram(
            "indirect",
            f"the offsets are a {INDEX_TYPE} tile in SBUF with the {source.partitions} partitions "
            "of the tensor",
            str(index),
        )
    assert isinstance(index, NkiTensor)
    if index.start_partition % 32:
        raise IllegalProgram(
            "indirect", "the offsets start on a multiple of 32 partitions", str(index)
        )
    number = index.size if columns is None else columns
    if type(number) is not int or number < 1:
        raise IllegalProgram("indirect", "num_elem is a positive integer", repr(columns))
    return ColumnIndirect(source, index, number)
