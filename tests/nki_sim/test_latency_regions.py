"""Windows and their overlap against brute force: the sets of bytes themselves."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nki_sim.latency import regions
from nki_sim.latency.regions import Window, overlap, relative_window

SIZES = st.integers(1, 5)
WINDOWS = st.tuples(
    st.lists(st.tuples(SIZES, st.integers(-12, 40)), min_size=1, max_size=4),
    st.sampled_from([1, 2, 4]),
    st.integers(0, 120),
)


def built(drawn: tuple[list[tuple[int, int]], int, int]) -> tuple[Window, set[int]]:
    """A window, and the bytes that it touches."""
    dims, itemsize, start = drawn
    shape, strides = zip(*dims, strict=True)
    first, end, run, outer = relative_window(shape, strides, itemsize)
    places = np.zeros(1, np.int64)
    for count, stride in dims:
        places = (places[:, None] + np.arange(count) * stride).reshape(-1)
    touched = {int(place) * itemsize + start + byte for place in places for byte in range(itemsize)}
    return (first + start, end + start, run, outer), touched


@settings(max_examples=1500, deadline=None)
@given(WINDOWS, WINDOWS)
def test_overlap_is_exact(one, other) -> None:
    left, left_bytes = built(one)
    right, right_bytes = built(other)
    assert overlap(left, right) == bool(left_bytes & right_bytes)
    assert overlap(right, left) == bool(left_bytes & right_bytes)


@settings(max_examples=500, deadline=None)
@given(WINDOWS)
def test_a_window_has_the_bytes_of_its_elements(drawn) -> None:
    (first, end, run, outer), touched = built(drawn)
    starts = regions._starts(outer) + first
    assert {int(s) + byte for s in starts for byte in range(run)} == touched
    assert (first, end) == (min(touched), max(touched) + 1)


def test_columns_of_a_tile_do_not_overlap() -> None:
    left, right = (relative_window((128, 32), (64, 1), 2) for _ in range(2))
    moved = (right[0] + 64, right[1] + 64, *right[2:])
    assert not overlap(left, moved)
    assert overlap(left, (right[0] + 62, right[1] + 62, *right[2:]))


def test_interleaved_elements_do_not_overlap() -> None:
    even = relative_window((128, 32), (64, 2), 2)
    odd = (even[0] + 2, even[1] + 2, *even[2:])
    assert not overlap(even, odd)


def test_very_many_runs_count_as_an_overlap() -> None:
    many = relative_window((2, regions.MOST_RUNS), (4 * regions.MOST_RUNS, 3), 1)
    other = (many[0] + 1, many[1] + 1, *many[2:])
    assert overlap(many, other)  # in truth they interleave
