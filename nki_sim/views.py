"""Tensors as kernels see them: windows (offset, shape, strides, data type) onto a storage.

Indexing, reshaping and access patterns never copy: what is written through one window is seen by
all others. Strides and offsets count elements of the window's data type. On chip, dimension 0 is
the partition and is never dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from . import indexing
from .addresses import invalidate_rivals
from .constants import ON_CHIP, MemoryRegion
from .dtypes import TABLE, Array, lookup, to_float32
from .errors import IllegalProgram, NotModelled, UninitialisedRead
from .schedule import advise
from .view_methods import ViewMethods

if TYPE_CHECKING:
    from .memory import Shape, Storage


class NkiTensor(ViewMethods):
    """A window onto a storage.

    Attributes:
        storage: what it looks at.
        shape, strides, offset: the window, in elements of `dtype`.
        dtype: the vendor's name of the element type.
        buffer: the memory region (the vendor's name of the attribute).
        size: number of elements; on chip `partitions` x `free`.
    """

    __slots__ = (
        "_array",
        "buffer",
        "dtype",
        "free",
        "offset",
        "partitions",
        "shape",
        "size",
        "storage",
        "strides",
    )

    def __init__(
        self, storage: Storage, shape: Shape, strides: Shape, offset: int, dtype: str
    ) -> None:
        self.storage = storage
        self.shape = shape
        self.strides = strides
        self.offset = offset
        self.dtype = dtype
        self.buffer: MemoryRegion = storage.region
        self.size = math.prod(shape)
        self.partitions = shape[0]
        self.free = self.size // self.partitions
        self._array: Array | None = None

    # -- what it is --------------------------------------------------------------------------------

    @property
    def array(self) -> Array:
        """The window as a NumPy array on the storage's bytes; nothing is checked."""
        if self._array is None:
            element = self.storage.element(self.dtype)
            size = element.itemsize
            self._array = np.ndarray(
                self.shape,
                element,
                self.storage.buffer,
                self.offset * size,
                [s * size for s in self.strides],
            )
        return self._array

    @property
    def name(self) -> str:
        """The name given at allocation."""
        return self.storage.name

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def on_chip(self) -> bool:
        """Whether it lives in SBUF or PSUM."""
        return self.buffer in ON_CHIP

    @property
    def itemsize(self) -> int:
        """Bytes per element on the device."""
        return TABLE[self.dtype].itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements of the window on the device."""
        return self.size * self.itemsize

    @property
    def row(self) -> int:
        """On chip: elements of `dtype` per partition of the storage."""
        shape = self.storage.shape
        return math.prod(shape[1:]) * TABLE[self.storage.dtype].itemsize // self.itemsize

    @property
    def start_partition(self) -> int:
        """On chip: the partition of the first row."""
        return self.storage.partition + self.offset // self.row

    def __repr__(self) -> str:
        name = f"{self.name} " if self.name else ""
        return f"{name}{self.shape} {self.dtype} in {self.buffer.name}"

    @property
    def address(self) -> tuple[int, int] | None:
        """Partition and byte offset, when the tensor was allocated at an explicit address."""
        return self.storage.address

    @property
    def sim_value(self) -> Array:
        """A copy of the elements: what the simulated memory holds."""
        return self.array.copy()

    @property
    def device_value(self) -> None:
        """What a device holds: nothing here."""
        return None

    def is_identity(self) -> bool:
        """Whether the window is the whole tensor as it was allocated."""
        return self.covers_storage() and self.shape == self.storage.shape

    def is_dense(self) -> bool:
        """Whether the elements follow one another in the storage, in row-major order."""
        return self.strides == indexing.row_major(self.shape) or (
            indexing.single_step(self.shape, self.strides) == 1
        )

    def covers_storage(self) -> bool:
        """Whether the window is the whole storage, in order."""
        whole = math.prod(self.storage.shape) * TABLE[self.storage.dtype].itemsize
        return self.nbytes == whole and self.is_dense()

    # -- other windows -----------------------------------------------------------------------------

    def derive(self, shape: Shape, strides: Shape, offset: int) -> NkiTensor:
        """Another window of the same type onto the same storage."""
        return NkiTensor(self.storage, shape, strides, offset, self.dtype)

    def __getitem__(self, index: object) -> NkiTensor:
        shape, strides, offset = indexing.basic_index(
            index, self.shape, self.strides, self.on_chip, self
        )
        return NkiTensor(self.storage, shape, strides, self.offset + offset, self.dtype)

    def reshape(
        self,
        *shape: int | Sequence[int],
        new_shape: Sequence[int] | None = None,
        **named: Sequence[int],
    ) -> NkiTensor:
        """The same elements in another shape; on chip dimension 0 stays.

        SDK 2.30 calls the parameter ``new_shape`` or ``shape``.
        """
        new = indexing.flatten_shape(indexing.one_shape(shape, new_shape, named))
        if math.prod(new) != self.size or (self.on_chip and new[0] != self.shape[0]):
            kept = " and dimension 0, the partition" if self.on_chip else ""
            raise IllegalProgram(
                "reshape", f"keeps the element count{kept}", f"{self.shape} to {new}"
            )
        strides = indexing.reshape_strides(self.shape, self.strides, new)
        if strides is None:
            raise IllegalProgram(
                "reshape",
                "the new shape must be a view of the same memory",
                f"{self} to {new}",
                "reshape before slicing",
            )
        return self.derive(new, strides, self.offset)

    def view(self, dtype: str) -> NkiTensor:
        """The same bytes as another data type; the last dimension scales with the element size."""
        new = lookup(dtype, "view").itemsize
        old = self.itemsize
        element = self.storage.element
        if new * element(self.dtype).itemsize != old * element(dtype).itemsize:
            raise NotModelled(
                "view", "NKI_PRECISE_FP=0 keeps no bits to reinterpret", f"{self.dtype} as {dtype}"
            )
        shape, strides, offset = indexing.reinterpret(self, old, new)
        return NkiTensor(self.storage, shape, strides, offset, dtype)

    reinterpret_cast = view

    def ap(
        self,
        pattern: Sequence[Sequence[int]],
        offset: int | None = None,
        scalar_offset: object = None,
        vector_offset: object = None,
        indirect_dim: int = 0,
        dtype: str | None = None,
    ) -> NkiTensor:
        """The window that an explicit access pattern describes.

        Args:
            pattern: ``[step, count]`` pairs, outermost first, in elements of `dtype`; step 0
                repeats. On chip the first pair is the partition and its step is the number of
                elements per partition of the tensor.
            offset: first element.
            scalar_offset: SBUF (1, 1) int32/uint32: start further on by its value times the stride
                of `indirect_dim`.
            vector_offset: SBUF (P, 1) int32/uint32: row p of the window is row ``vector_offset[p]``
                of an HBM tensor.
            indirect_dim: the dimension that a dynamic offset counts.
            dtype: reinterpret the tensor's bytes as this type first.

        On a sliced tensor the offset counts from the slice's first element (`view_patterns`). A
        pattern that leaves a whole tensor is an error where it is used (`StrayTensor`).

        Raises:
            IllegalProgram: outside a slice, or not an access pattern of the tensor's memory.
            NotModelled: on a sliced tensor, where documents disagree about this pattern.
        """
        base = self if dtype is None or dtype == self.dtype else self.view(dtype)
        first = 0 if offset is None else offset
        dynamic = scalar_offset is not None or vector_offset is not None
        if dynamic:
            from .indirect import indirect_window  # imports this module

            return indirect_window(base, pattern, first, scalar_offset, vector_offset, indirect_dim)
        if type(base) is NkiTensor and base.covers_storage():
            found, error = indexing.loose_pattern(base, pattern, first)
            if error is not None:
                return StrayTensor(base, found, error)
            return NkiTensor(self.storage, *found, base.dtype)
        return NkiTensor(self.storage, *base.pattern_window(pattern, first), base.dtype)

    def pattern_window(self, pattern: Sequence[Sequence[int]], offset: int) -> indexing.Window:
        """Shape, strides and offset of an access pattern on this window."""
        if self.covers_storage():
            return indexing.access_pattern(self, pattern, offset)
        from .view_patterns import window

        return window(self, pattern, offset)

    # -- what instructions do with it --------------------------------------------------------------

    def require_written(self, operation: str, role: str) -> None:
        """Raise UninitialisedRead unless every element has been written."""
        storage = self.storage
        if not storage.unwritten:
            return
        if storage.hollow:
            written: Array = np.zeros((1,) * self.ndim, np.bool_)
        else:
            written = np.asarray(self._written_mask().all(axis=-1))
        if not written.all():
            first = tuple(int(i) for i in np.argwhere(~written)[0])
            how = (
                "has never been written"
                if storage.rivals is None
                else "holds nothing of its own: a tensor at an overlapping address may have "
                "overwritten it"
            )
            raise UninitialisedRead(
                operation,
                f"{role} must have been written before it is read",
                f"{self}, whose element {first} {how}",
                "write it first (nisa.memset, nisa.dma_copy), or read only what is written",
            )

    def mark_written(self) -> None:
        """Note that every element of the window now holds a value."""
        storage = self.storage
        storage.dirty = True
        if storage.rivals is not None:
            self._overwrite(None)
        if not storage.unwritten:
            return
        if storage.hollow or self.covers_storage():
            storage.complete()
            return
        mask = self._written_mask()
        if indexing.is_injective(self.shape, self.strides):
            storage.unwritten -= mask.size - int(np.count_nonzero(mask))
            mask[...] = True
        else:
            mask[...] = True
            storage.recount()
        if not storage.unwritten:
            storage.complete()

    def mark_written_where(self, chosen: Array) -> None:
        """Note that the elements chosen by a bool array of the window's shape now hold a value."""
        storage = self.storage
        storage.dirty = True
        if storage.rivals is not None:
            self._overwrite(chosen)
        if storage.unwritten:
            self._written_mask()[chosen] = True
            storage.recount()

    def mark_unwritten(self, mask: Array) -> None:
        """Note that elements, given as bool [P, F] or [P, 1], hold nothing that may be used."""
        chosen = np.broadcast_to(mask, (self.partitions, self.free)).reshape(self.shape)
        self._written_mask()[chosen] = False
        self.storage.recount()

    def _overwrite(self, chosen: Array | None) -> None:
        """Make tensors at overlapping addresses forget what the written elements covered."""
        if self.storage.constant:
            raise IllegalProgram(
                "nl.shared_constant", "a constant is never written", f"a write to {self}"
            )
        size = self.itemsize
        touched = np.zeros(self.storage.length, np.bool_)
        strides = [stride * size for stride in self.strides]
        window = np.ndarray(
            (*self.shape, size), np.bool_, touched, self.offset * size, (*strides, 1)
        )
        window[... if chosen is None else chosen] = True
        invalidate_rivals(self.storage, touched)

    def written_map(self) -> Array:
        """Which elements of the window have been written, as a bool array of its shape."""
        if not self.storage.unwritten:
            return np.ones(self.shape, np.bool_)
        return np.asarray(self._written_mask().all(axis=-1))

    def _written_mask(self) -> Array:
        storage = self.storage
        return self._overlay(storage.written_flags(storage.element(self.dtype).itemsize))

    def foreign_mask(self) -> Array:
        """Which units of the window (last dimension: units of an element) are foreign; a view."""
        storage = self.storage
        return self._overlay(storage.foreign_flags(storage.element(self.dtype).itemsize))

    def _overlay(self, flags: Array) -> Array:
        """The window onto one flag per unit of the storage; last dimension: units of an element."""
        ratio = self.storage.element(self.dtype).itemsize // self.storage.unit
        strides = [stride * ratio for stride in self.strides]
        return np.ndarray((*self.shape, ratio), np.bool_, flags, self.offset * ratio, (*strides, 1))

    def rows(self) -> Array:
        """The elements as [partitions, free], in their own type."""
        array = self.array
        return array if array.ndim == 2 else array.reshape(self.partitions, self.free)

    def rows32(self) -> Array:
        """The elements as [partitions, free] float32: what an engine computes with."""
        return to_float32(self.rows())

    # -- what the compiler refuses -----------------------------------------------------------------

    def __setitem__(self, index: object, value: object) -> NoReturn:
        raise IllegalProgram(
            "assignment",
            "tensors are written by instructions",
            "t[...] = value",
            "use nisa.tensor_copy or nisa.dma_copy",
        )

    def _no_operator(self, *_: Any) -> NoReturn:
        raise IllegalProgram(
            "tensor operator",
            "tensors have no operators in a kernel",
            str(self),
            "use an instruction of nki.isa",
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = (
        _no_operator
    )
    __matmul__ = __pow__ = __neg__ = __lt__ = __le__ = __gt__ = __ge__ = _no_operator
    __iter__ = __len__ = __float__ = __int__ = __array__ = _no_operator

    def __bool__(self) -> bool:
        """Whether it is given, of a tensor in HBM; a tile might be meant by its value."""
        if self.on_chip:
            self._no_operator()
        advise(f"{self} as a condition is always true: compare with None")
        return True


class StrayTensor(NkiTensor):
    """A window that leaves its tensor: it may be made, and must not be used.

    Published kernels make one in a loop's last rounds and leave it alone.

    Attributes:
        error: what is raised when it is used.
    """

    __slots__ = ("error",)

    def __init__(self, base: NkiTensor, window: indexing.Window, error: IllegalProgram) -> None:
        super().__init__(base.storage, *window, base.dtype)
        self.error = error

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise self.error

    array = property(_refuse)
    derive = __getitem__ = reshape = view = reinterpret_cast = pattern_window = _refuse
    require_written = mark_written = mark_written_where = mark_unwritten = _refuse


def full_view(storage: Storage) -> NkiTensor:
    """The window onto all of a storage."""
    return NkiTensor(storage, storage.shape, indexing.row_major(storage.shape), 0, storage.dtype)
