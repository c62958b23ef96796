"""Which bytes a window touches, and whether two windows share one.

A window is a sorted set of equal runs of contiguous bytes. Two windows are compared exactly,
whatever their strides, as long as both have at most `MOST_RUNS` runs; beyond that their bounding
intervals decide, which can only report an overlap too many.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

MOST_RUNS = 65536

Dimensions = tuple[tuple[int, int], ...]
"""(count, step in bytes) of each dimension outside the run, the longest step first."""

Window = tuple[int, int, int, Dimensions]
"""First byte, byte after the last, bytes per run, dimensions of the runs' starts."""


@lru_cache(maxsize=1 << 16)
def relative_window(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> Window:
    """The window of a shape and strides (in elements) that starts at byte 0.

    A negative stride makes the first byte negative.
    """
    lowest, dims = 0, []
    for count, stride in zip(shape, strides, strict=True):
        step = stride * itemsize
        if count == 1 or step == 0:
            continue
        if step < 0:
            lowest += step * (count - 1)
            step = -step
        dims.append((count, step))
    dims.sort(key=lambda one: one[1])
    run = itemsize
    outer: list[tuple[int, int]] = []
    for count, step in dims:
        if not outer and step <= run:
            run += step * (count - 1)
        elif outer and step == outer[-1][0] * outer[-1][1]:
            outer[-1] = (outer[-1][0] * count, outer[-1][1])
        else:
            outer.append((count, step))
    last = sum(step * (count - 1) for count, step in outer)
    return lowest, lowest + last + run, run, tuple(reversed(outer))


def overlap(one: Window, other: Window) -> bool:
    """Whether two windows of the same memory share a byte."""
    if one[0] >= other[1] or other[0] >= one[1]:
        return False
    if not one[3] and not other[3]:
        return True
    return _overlap(other[0] - one[0], one[2], one[3], other[2], other[3])


@lru_cache(maxsize=1 << 16)
def _overlap(distance: int, run: int, dims: Dimensions, run2: int, dims2: Dimensions) -> bool:
    if len(dims) <= 1 and len(dims2) <= 1:
        found = _rectangles(distance, run, dims, run2, dims2)
        if found is not None:
            return found
    if _runs(dims) > MOST_RUNS or _runs(dims2) > MOST_RUNS:
        return True
    starts = _starts(dims)
    others = _starts(dims2) + distance
    following = np.searchsorted(starts, others, side="right")
    before = starts[np.maximum(following - 1, 0)]
    after = starts[np.minimum(following, len(starts) - 1)]
    inside = (following > 0) & (others < before + run)
    reaching = (following < len(starts)) & (others + run2 > after)
    return bool((inside | reaching).any())


def _rectangles(
    distance: int, run: int, dims: Dimensions, run2: int, dims2: Dimensions
) -> bool | None:
    """The answer for rows of one pitch that do not wrap around; None for other windows."""
    pitches = {step for _, step in (*dims, *dims2)}
    if len(pitches) != 1:
        return None
    (pitch,) = pitches
    rows, column = divmod(distance, pitch)
    if run > pitch or column + run2 > pitch:
        return None
    count = dims[0][0] if dims else 1
    count2 = dims2[0][0] if dims2 else 1
    return rows < count and rows + count2 > 0 and column < run


def _runs(dims: Dimensions) -> int:
    total = 1
    for count, _ in dims:
        total *= count
    return total


@lru_cache(maxsize=4096)
def _starts(dims: Dimensions) -> np.ndarray:
    """Where the runs start, ascending."""
    starts = np.zeros(1, np.int64)
    for count, step in dims:
        starts = (starts[:, None] + np.arange(count, dtype=np.int64) * step).reshape(-1)
    starts.sort()
    return starts
