"""``.ap`` on a sliced tensor, where documents disagree about what its numbers count.

Two readings exist. In the first, steps count elements of the storage and the offset is relative to
the view's first element (the reference of ``NkiTensor.ap``). In the second, the pattern walks the
view's own elements as if they lay next to each other, so that on chip the partition's step is the
view's free size (published kernels write this for one column of a tile). A reading makes sense when
everything that it reaches belongs to the view. When exactly one does, or both reach the same
elements, that is what `window` returns; the language guide's third statement, that the view's
offset is ignored, is not followed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .dtypes import Array
from .errors import IllegalProgram, NotModelled
from .indexing import Shape, Window, pattern_pairs
from .schedule import advise

if TYPE_CHECKING:
    from .views import NkiTensor


def window(view: NkiTensor, pattern: Sequence[Sequence[int]], offset: int) -> Window:
    """The window of an access pattern on a sliced tensor, with a warning.

    Args:
        view: a window that does not cover its storage.
        pattern, offset: as given to ``.ap``.

    Raises:
        IllegalProgram: no reading stays inside the view.
        NotModelled: two readings, or none that a window can express.
    """
    counts, steps = pattern_pairs(pattern)
    if type(offset) is not int or offset < 0:
        raise IllegalProgram("ap", "the offset is a non-negative integer", repr(offset))
    readings = _on_chip if view.on_chip else _flat
    found = [r for r in readings(view, counts, steps, offset) if r is not None]
    if not found:
        raise IllegalProgram(
            "ap",
            "a pattern on a sliced tensor stays inside the slice",
            f"{pattern!r} with offset {offset} on {view}",
            "use .ap on the tensor itself",
        )
    if len(found) == 2 and not _same(found[0], found[1]):
        raise NotModelled(
            "ap",
            "documents disagree about this pattern on a sliced tensor",
            f"{pattern!r} with offset {offset} on {view}",
            "use .ap on the tensor itself",
        )
    advise(
        f"ap: called on a sliced tensor ({view}); NKI 0.2 refuses this, later documents disagree "
        "about the offset; here it counts from the slice's first element"
    )
    return found[0]


def _same(left: Window, right: Window) -> bool:
    """Whether two windows of one shape reach the same elements in the same order."""
    if left[2] != right[2]:
        return False
    return all(count == 1 or a == b for count, a, b in zip(left[0], left[1], right[1], strict=True))


def _flat(view: NkiTensor, counts: Shape, steps: Shape, offset: int) -> tuple[Window | None, ...]:
    """Both readings in HBM: of the storage's elements, and of the view's own."""
    own = _places(view.shape, view.strides)
    return _readings(own, counts, steps, offset, view.offset)


def _on_chip(
    view: NkiTensor, counts: Shape, steps: Shape, offset: int
) -> tuple[Window | None, ...]:
    """Both readings on chip, partitions apart from the free dimensions."""
    if len(counts) < 2:
        raise IllegalProgram(
            "ap", "an on-chip pattern has a partition and a free pair", repr((steps, counts))
        )
    row, free = view.row, math.prod(view.shape[1:])
    own = _places(view.shape[1:], view.strides[1:])
    results: list[Window | None] = []
    for number, size in enumerate((row, free)):
        partition, first = divmod(offset, size)
        fits = partition + counts[0] <= view.partitions
        if not fits or (counts[0] > 1 and steps[0] != size):
            results.append(None)
            continue
        inner = _readings(own, counts[1:], steps[1:], first, view.offset)[number]
        results.append(inner and (counts, (row, *inner[1]), inner[2] + partition * row))
    return tuple(results)


def _readings(
    own: Array, counts: Shape, steps: Shape, offset: int, base: int
) -> tuple[Window | None, Window | None]:
    """The two readings of a pattern on elements at `own` (relative places, row-major).

    Steps count places in the first, positions in `own` in the second; None where the pattern
    leaves `own`, or where no constant steps describe it.
    """
    walked = offset + _places(counts, steps)
    inside = bool(np.isin(walked, own).all())
    first = (counts, steps, base + offset) if inside else None
    if int(walked.max()) >= own.size:
        return first, None
    reached = own[walked].reshape(counts)
    strides = tuple(_step(reached, axis) for axis in range(len(counts)))
    start = int(reached.flat[0])
    regular = np.array_equal(reached.reshape(-1), start + _places(counts, strides))
    return first, (counts, strides, base + start) if regular else None


def _step(reached: Array, axis: int) -> int:
    """The step of one dimension, from its first two elements."""
    corner: list[Any] = [0] * reached.ndim
    if reached.shape[axis] == 1:
        return 0
    corner[axis] = 1
    return int(reached[tuple(corner)]) - int(reached.flat[0])


def _places(shape: Shape, strides: Shape) -> Array:
    """Where the elements of a window lie, relative to its first, in row-major order."""
    places = np.zeros(1, np.int64)
    for size, stride in zip(shape, strides, strict=True):
        places = (places[:, None] + np.arange(size, dtype=np.int64) * stride).reshape(-1)
    return places
