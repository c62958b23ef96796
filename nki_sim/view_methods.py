"""The view methods of the vendor's tensor since NKI 0.5: slice, select, permute, rearrange, ...

Every method returns another window onto the same bytes. All of them are written in terms of three
operations of the class that mixes them in: indexing, `reshape` and `derive`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import IllegalProgram
from .indexing import single_step

if TYPE_CHECKING:
    from .indexing import Shape
    from .views import NkiTensor

Names = Sequence[str | Sequence[str]]
"""A pattern of `rearrange`: names of dimensions, groups of names for split or merged ones."""


class ViewMethods:
    """Windows derived from a window; `bound_dims` are those that a dynamic offset decides."""

    __slots__ = ()

    if TYPE_CHECKING:
        shape: Shape
        strides: Shape
        offset: int

        @property
        def ndim(self) -> int: ...
        @property
        def on_chip(self) -> bool: ...

        def derive(self, shape: Shape, strides: Shape, offset: int) -> NkiTensor: ...
        def reshape(self, *shape: int | Sequence[int]) -> NkiTensor: ...
        def __getitem__(self, index: object) -> NkiTensor: ...

    @property
    def bound_dims(self) -> Shape:
        """The dimensions that a dynamic offset decides."""
        return ()

    def is_indirect(self) -> bool:
        """Whether an index in memory decides which elements these are."""
        return False

    def is_contiguous(self) -> bool:
        """Whether the elements follow one another in row-major order; on chip, per partition."""
        first = 1 if self.on_chip else 0
        return single_step(self.shape[first:], self.strides[first:]) == 1

    def get_pattern(self) -> list[list[int]]:
        """``[step, count]`` of every dimension, in elements."""
        return [[step, count] for step, count in zip(self.strides, self.shape, strict=True)]

    def slice(self, dim: int, start: int, end: int, step: int = 1) -> NkiTensor:
        """Elements ``start:end:step`` of dimension `dim`."""
        self._free_dim("slice", dim)
        return self[(slice(None),) * dim + (slice(start, end, step),)]

    def select(self, dim: int, index: Any) -> NkiTensor:
        """Element `index` of dimension `dim`, which is dropped (on chip dimension 0 is kept).

        An SBUF tensor of one element selects when the instruction runs.
        """
        self._free_dim("select", dim)
        if type(index) is int:
            return self[(slice(None),) * dim + (index,)]
        from .indirect import dynamic_select  # imports views

        return dynamic_select(self, dim, index)  # type: ignore[arg-type]

    def vector_select(self, dim: int, vector_offset: Any) -> NkiTensor:
        """Rows of an HBM tensor: row p of the result is row ``vector_offset[p]``."""
        from .indirect import vector_select  # imports views

        return vector_select(self, dim, vector_offset)  # type: ignore[arg-type]

    def indirect(self, index: Any, num_elem: int | None = None) -> NkiTensor:
        """Columns of an on-chip tensor at the offsets that `index` holds (trn3)."""
        from .column_indirect import column_indirect  # imports views

        return column_indirect(self, index, num_elem)  # type: ignore[arg-type]

    def permute(self, dims: Sequence[int]) -> NkiTensor:
        """The dimensions in another order; on chip dimension 0 stays first."""
        order = tuple(dims) if isinstance(dims, Sequence) else ()
        fixed = self.on_chip or 0 in self.bound_dims
        legal = all(type(d) is int for d in order) and sorted(order) == list(range(self.ndim))
        if not legal or (fixed and order[0] != 0):
            raise IllegalProgram(
                "permute", "orders all dimensions, the partition first", f"{dims!r} of {self}"
            )
        return self.derive(
            tuple(self.shape[d] for d in order), tuple(self.strides[d] for d in order), self.offset
        )

    def broadcast(self, dim: int, size: int) -> NkiTensor:
        """Repeat dimension `dim`, of size 1, `size` times."""
        self._free_dim("broadcast", dim)
        if self.shape[dim] != 1 or (self.on_chip and dim == 0):
            raise IllegalProgram(
                "broadcast", "repeats a free dimension of size 1", f"dimension {dim} of {self}"
            )
        if type(size) is not int or size < 1:
            raise IllegalProgram("broadcast", "repeats a positive number of times", repr(size))
        shape, strides = list(self.shape), list(self.strides)
        shape[dim], strides[dim] = size, 0
        return self.derive(tuple(shape), tuple(strides), self.offset)

    def expand_dim(self, dim: int) -> NkiTensor:
        """A new dimension of size 1 before dimension `dim`."""
        first = 1 if self.on_chip or 0 in self.bound_dims else 0
        if type(dim) is not int or not first <= dim <= self.ndim:
            raise IllegalProgram(
                "expand_dim", "inserts a free dimension", f"dimension {dim!r} of {self}"
            )
        step = 1 if dim == self.ndim else self.strides[dim] * self.shape[dim]
        return self.derive(
            (*self.shape[:dim], 1, *self.shape[dim:]),
            (*self.strides[:dim], step, *self.strides[dim:]),
            self.offset,
        )

    def squeeze_dim(self, dim: int) -> NkiTensor:
        """Drop dimension `dim`, of size 1."""
        self._free_dim("squeeze_dim", dim)
        kept = self.ndim == 1 or (self.on_chip and (dim == 0 or self.ndim == 2))
        if self.shape[dim] != 1 or kept:
            raise IllegalProgram(
                "squeeze_dim", "drops a free dimension of size 1", f"dimension {dim} of {self}"
            )
        return self.derive(
            self.shape[:dim] + self.shape[dim + 1 :],
            self.strides[:dim] + self.strides[dim + 1 :],
            self.offset,
        )

    def reshape_dim(self, dim: int, shape: Sequence[int]) -> NkiTensor:
        """Split dimension `dim` into `shape`, of which one size may be -1: what remains."""
        self._known_dim("reshape_dim", dim)
        sizes = tuple(shape) if isinstance(shape, Sequence) else ()
        if sizes.count(-1) == 1:
            rest = self.shape[dim] // max(-math.prod(sizes), 1)
            sizes = tuple(rest if size == -1 else size for size in sizes)
        legal = bool(sizes) and all(type(s) is int and s > 0 for s in sizes)
        fixed = dim == 0 and len(sizes) > 1 and (self.on_chip or 0 in self.bound_dims)
        if not legal or math.prod(sizes) != self.shape[dim] or fixed:
            raise IllegalProgram(
                "reshape_dim",
                f"splits a free dimension into sizes whose product is {self.shape[dim]}",
                f"{shape!r} for dimension {dim} of {self}",
            )
        steps = [self.strides[dim] * math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
        return self.derive(
            (*self.shape[:dim], *sizes, *self.shape[dim + 1 :]),
            (*self.strides[:dim], *steps, *self.strides[dim + 1 :]),
            self.offset,
        )

    def flatten_dims(self, start_dim: int, end_dim: int) -> NkiTensor:
        """Merge dimensions `start_dim` to `end_dim` (inclusive), contiguous ones, into one."""
        self._free_dim("flatten_dims", start_dim)
        self._known_dim("flatten_dims", end_dim)
        inner = slice(start_dim, end_dim + 1)
        step = single_step(self.shape[inner], self.strides[inner])
        fixed = start_dim == 0 and self.on_chip and end_dim > 0
        if start_dim > end_dim or fixed or step is None:
            raise IllegalProgram(
                "flatten_dims",
                "merges free dimensions that are contiguous in memory",
                f"dimensions {start_dim} to {end_dim} of {self}, strides {self.strides}",
                "flatten before slicing or permuting",
            )
        return self.derive(
            (*self.shape[:start_dim], math.prod(self.shape[inner]), *self.shape[end_dim + 1 :]),
            (*self.strides[:start_dim], step, *self.strides[end_dim + 1 :]),
            self.offset,
        )

    def rearrange(
        self, src_pattern: Names, dst_pattern: Names, fixed_sizes: Mapping[str, int] | None = None
    ) -> NkiTensor:
        """Split, reorder and merge dimensions by name.

        Args:
            src_pattern: a name per dimension, a group of names where one is to be split.
            dst_pattern: the same names in the new order, a group where some are to be merged.
            fixed_sizes: sizes of names in groups; one per group may be left out.
        """
        if fixed_sizes is not None and not isinstance(fixed_sizes, Mapping):
            raise IllegalProgram("rearrange", "fixed_sizes is a dict of sizes", repr(fixed_sizes))
        sizes = dict(fixed_sizes or {})
        before, after = _flat(src_pattern), _flat(dst_pattern)
        if sorted(before) != sorted(after) or len(set(before)) != len(before):
            raise IllegalProgram(
                "rearrange",
                "both patterns have the same names, each once",
                f"{src_pattern!r} to {dst_pattern!r}",
            )
        if len(src_pattern) != self.ndim:
            raise IllegalProgram(
                "rearrange", f"names the {self.ndim} dimensions of {self}", repr(src_pattern)
            )
        view: Any = self
        dim = 0
        for entry in src_pattern:
            if not isinstance(entry, str):
                view = view.reshape_dim(dim, tuple(sizes.get(name, -1) for name in entry))
            dim += 1 if isinstance(entry, str) else len(entry)
        view = view.permute(tuple(before.index(name) for name in after))
        for dim, entry in enumerate(dst_pattern):
            if not isinstance(entry, str):
                view = view.flatten_dims(dim, dim + len(entry) - 1)
        return view

    def _known_dim(self, operation: str, dim: object) -> None:
        if type(dim) is not int or not 0 <= dim < self.ndim:
            raise IllegalProgram(
                operation, f"names a dimension, 0 to {self.ndim - 1}", f"{dim!r} of {self}"
            )

    def _free_dim(self, operation: str, dim: int) -> None:
        """Refuse an unknown dimension, and one that a dynamic offset decides."""
        self._known_dim(operation, dim)
        if dim in self.bound_dims:
            raise IllegalProgram(
                operation,
                "leaves the dimension that a dynamic offset selects as it is",
                f"dimension {dim} of {self}",
                "slice before selecting",
            )


def _flat(pattern: Names) -> list[str]:
    """The names of a pattern, groups opened."""
    if isinstance(pattern, str) or not isinstance(pattern, Sequence):
        raise IllegalProgram("rearrange", "a pattern is a tuple of names", repr(pattern))
    names: list[Any] = []
    for entry in pattern:
        names.extend(entry if isinstance(entry, list | tuple) else [entry])
    if not names or not all(isinstance(name, str) for name in names):
        raise IllegalProgram("rearrange", "a pattern is a tuple of names", repr(pattern))
    return names
