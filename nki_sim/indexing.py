"""Arithmetic of windows: basic indexing, reshaping, reinterpretation and explicit access patterns.

Pure functions on shapes, strides and offsets (in elements); `views` wraps them, and none of them
touches data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .errors import IllegalProgram, NotModelled
from .machine import PARTITIONS

if TYPE_CHECKING:
    from .views import NkiTensor

Shape = tuple[int, ...]
Window = tuple[Shape, Shape, int]
"""Shape, strides and offset."""


class DynamicSlice:
    """``nl.ds(start, size)``: the slice ``start:start + size``."""

    __slots__ = ("size", "start")

    def __init__(self, start: int, size: int) -> None:
        if type(start) is not int or type(size) is not int:
            raise NotModelled(
                "nl.ds",
                "only integers known while tracing are modelled",
                f"ds({start!r}, {size!r})",
            )
        self.start = start
        self.size = size

    def __repr__(self) -> str:
        return f"ds({self.start}, {self.size})"


@lru_cache(maxsize=4096)
def row_major(shape: Shape) -> Shape:
    """Strides of a dense tensor, last dimension fastest."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)


def one_shape(shape: Any, new_shape: Any, named: dict[str, Any]) -> tuple[Any, ...]:
    """The one shape that ``reshape`` was given: positional, ``new_shape=`` or ``shape=``."""
    given = [shape] if shape else []
    given += [] if new_shape is None else [(new_shape,)]
    given += [(value,) for name, value in named.items() if name == "shape"]
    if len(given) != 1 or set(named) - {"shape"}:
        raise IllegalProgram(
            "reshape", "takes one shape", repr([*given, *sorted(set(named) - {"shape"})])
        )
    return given[0]


def flatten_shape(shape: tuple[int | Sequence[int], ...]) -> Shape:
    """``reshape``'s arguments, given one by one or as one sequence, as a tuple."""
    values: Any = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    legal = isinstance(values, list | tuple) and bool(values)
    if not legal or any(type(size) is not int or size < 1 for size in values):
        raise IllegalProgram("reshape", "every dimension is a positive integer", repr(shape))
    return tuple(values)


def basic_index(
    index: object, shape: Shape, strides: Shape, on_chip: bool, tensor: object
) -> Window:
    """The window that ``tensor[index]`` selects, with its offset relative to the tensor's.

    Integers drop their dimension in HBM; on chip the partition is kept and at least one free
    dimension remains.

    Raises:
        IllegalProgram: out of range, a negative or zero step, or an index that is no int, slice, ds
            or ellipsis.
    """
    items = _expand(index, len(shape), tensor)
    new_shape: list[int] = []
    new_strides: list[int] = []
    offset = 0
    for axis, (item, size, stride) in enumerate(zip(items, shape, strides, strict=True)):
        if type(item) is slice and item.step is None:  # the most frequent index by far
            first = 0 if item.start is None else item.start
            stop = size if item.stop is None else item.stop
            if type(first) is type(stop) is int and 0 <= first < stop <= size:
                offset += first * stride
                new_shape.append(stop - first)
                new_strides.append(stride)
                continue
        start, count, step, keep = _resolve(item, size, axis, tensor)
        offset += start * stride
        if step != 1 and on_chip and axis == 0:
            raise _bad(tensor, "there is no step along partitions", item, axis)
        if keep or (on_chip and (axis == 0 or (axis == len(shape) - 1 and len(new_shape) < 2))):
            new_shape.append(count)
            new_strides.append(stride * step)
    if not new_shape:
        return (1,), (1,), offset
    return tuple(new_shape), tuple(new_strides), offset


_WHOLE = slice(None)


def first_index(index: object) -> object:
    """What an index says about dimension 0."""
    return index[0] if isinstance(index, tuple) and index else index


def _expand(index: object, rank: int, tensor: object) -> list[object]:
    """One item per dimension: the ellipsis and missing dimensions become `_WHOLE`."""
    items = list(index) if isinstance(index, tuple) else [index]
    if len(items) == rank and not any(item is Ellipsis for item in items):
        return items
    dots = [position for position, item in enumerate(items) if item is Ellipsis]
    if len(items) - len(dots) > rank or len(dots) > 1:
        raise IllegalProgram(
            "indexing", f"at most {rank} indices and one ellipsis", f"{index!r} on {tensor}"
        )
    missing = rank - (len(items) - len(dots))
    at = dots[0] if dots else len(items)
    items[at : at + len(dots)] = [_WHOLE] * missing
    return items


def _resolve(item: object, size: int, axis: int, tensor: object) -> tuple[int, int, int, bool]:
    """Start, count, step of one index, and whether its dimension stays."""
    if type(item) is int:
        start = item + size if item < 0 else item
        if not 0 <= start < size:
            raise _bad(tensor, f"an index lies in [-{size}, {size - 1}]", item, axis)
        return start, 1, 1, False
    if isinstance(item, DynamicSlice):
        start, stop, step = item.start, item.start + item.size, 1
    elif isinstance(item, slice):
        start, stop, step = _slice_bounds(item, size, axis, tensor)
    else:
        raise _bad(tensor, "an index is an integer, a slice, nl.ds or an ellipsis", item, axis)
    if not 0 <= start < stop <= size:
        raise _bad(
            tensor, f"a slice is not empty and lies in [0, {size}] (it is not clamped)", item, axis
        )
    return start, -(-(stop - start) // step), step, True


def _slice_bounds(item: slice, size: int, axis: int, tensor: object) -> tuple[int, int, int]:
    start = 0 if item.start is None else item.start
    stop = size if item.stop is None else item.stop
    step = 1 if item.step is None else item.step
    if any(type(bound) is not int for bound in (start, stop, step)) or step < 1:
        raise _bad(tensor, "slice bounds are integers and the step is positive", item, axis)
    return (start + size if start < 0 else start), (stop + size if stop < 0 else stop), step


def _bad(tensor: object, rule: str, item: object, axis: int) -> IllegalProgram:
    return IllegalProgram("indexing", rule, f"{item!r} in dimension {axis} of {tensor}")


def reshape_strides(shape: Shape, strides: Shape, new: Shape) -> Shape | None:
    """Strides that show the same elements as `new` without a copy, or None when there are none."""
    if strides == row_major(shape):
        return row_major(new)
    runs = _runs(shape, strides)
    result: list[int] = []
    for size in reversed(new):
        if size == 1:
            result.append(runs[-1][1] if runs else 1)
            continue
        if not runs or runs[-1][0] % size:
            return None
        count, stride = runs.pop()
        result.append(stride)
        if count > size:
            runs.append((count // size, stride * size))
    return tuple(reversed(result))


def _runs(shape: Shape, strides: Shape) -> list[tuple[int, int]]:
    """(count, stride) of the maximal runs of dimensions that can be walked with one stride,
    outermost first.
    """
    runs: list[tuple[int, int]] = []
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == stride * size:
            runs[-1] = (runs[-1][0] * size, stride)
        else:
            runs.append((size, stride))
    return runs


def single_step(shape: Shape, strides: Shape) -> int | None:
    """The step that walks all elements in row-major order; None when there is none."""
    runs = _runs(shape, strides)
    if not runs:
        return 1
    return runs[0][1] if len(runs) == 1 else None


def is_injective(shape: Shape, strides: Shape) -> bool:
    """Whether no two index tuples reach the same element (sufficient condition: nested strides)."""
    reach = 0
    for stride, size in sorted((s, n) for n, s in zip(shape, strides, strict=True) if n > 1):
        if stride <= reach:
            return False
        reach += (size - 1) * stride
    return True


def reinterpret(tensor: NkiTensor, old: int, new: int) -> Window:
    """The window of the same bytes when elements have `new` instead of `old` bytes."""
    shape, strides, offset = tensor.shape, tensor.strides, tensor.offset
    if old == new:
        return shape, strides, offset
    if old > new:
        ratio = old // new
        legal = strides[-1] == 1 or shape[-1] == 1
        scaled = (shape[-1] * ratio, [s * ratio for s in strides[:-1]], offset * ratio)
    else:
        ratio = new // old
        legal = shape[-1] % ratio == offset % ratio == 0 and strides[-1] == 1
        legal = legal and all(s % ratio == 0 for s in strides[:-1])
        scaled = (shape[-1] // ratio, [s // ratio for s in strides[:-1]], offset // ratio)
    if not legal:
        raise IllegalProgram(
            "view",
            f"the last dimension must be contiguous and divide into elements of {new} bytes",
            str(tensor),
        )
    return (*shape[:-1], scaled[0]), (*scaled[1], 1), scaled[2]


def access_pattern(base: NkiTensor, pattern: Sequence[Sequence[int]], offset: int) -> Window:
    """The window of an explicit access pattern on a whole tensor (see `NkiTensor.ap`)."""
    window, error = loose_pattern(base, pattern, offset)
    if error is not None:
        raise error
    return window


def loose_pattern(
    base: NkiTensor, pattern: Sequence[Sequence[int]], offset: int
) -> tuple[Window, IllegalProgram | None]:
    """The window of an access pattern on a whole tensor, and the error if it leaves the tensor."""
    counts, steps = pattern_pairs(pattern)
    if type(offset) is not int or offset < 0:
        raise IllegalProgram("ap", "the offset is a non-negative integer", repr(offset))
    if base.on_chip:
        where = _leaves_chip(base, counts, steps, offset, pattern)
    else:
        last = offset + sum(step * (count - 1) for step, count in zip(steps, counts, strict=True))
        where = f"element {last} of {base.size}" if last >= base.size else None
    error = None
    if where is not None:
        received = f"{pattern!r} with offset {offset}: {where}"
        error = IllegalProgram("ap", f"the pattern stays inside {base}", received)
    return (counts, steps, offset), error


def pattern_pairs(pattern: Sequence[Sequence[int]]) -> tuple[Shape, Shape]:
    """Counts and steps of an access pattern."""
    legal = isinstance(pattern, list | tuple) and bool(pattern)
    legal = legal and all(
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(type(value) is int for value in pair)
        and pair[0] >= 0
        and pair[1] >= 1
        for pair in pattern
    )
    if not legal:
        raise IllegalProgram(
            "ap",
            "the pattern is a list of [step, count] with step >= 0 and count >= 1",
            repr(pattern),
        )
    return tuple(pair[1] for pair in pattern), tuple(pair[0] for pair in pattern)


def _leaves_chip(
    base: NkiTensor, counts: Shape, steps: Shape, offset: int, pattern: Sequence[Sequence[int]]
) -> str | None:
    """Where a pattern on chip leaves the tensor."""
    row = math.prod(base.shape[1:])
    if counts[0] > 1 and steps[0] != row:
        raise IllegalProgram(
            "ap",
            f"on chip the first pair steps by the {row} elements of a partition",
            f"{pattern!r} on {base}",
            f"write [[{row}, {counts[0]}], ...]",
        )
    if len(counts) < 2:
        raise IllegalProgram(
            "ap", "an on-chip pattern has a partition and a free pair", repr(pattern)
        )
    partition, first = divmod(offset, row)
    last = first + sum(
        step * (count - 1) for step, count in zip(steps[1:], counts[1:], strict=True)
    )
    if last >= row or partition + counts[0] > min(base.shape[0], PARTITIONS):
        return f"partitions {partition} to {partition + counts[0] - 1}, elements {first} to {last}"
    return None
