"""Windows onto storages against NumPy indexing."""

from __future__ import annotations

import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nki_sim.errors import IllegalProgram

from .support import in_kernel, tile, values

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def indices(shape: tuple[int, ...], draw: st.DataObject) -> tuple[object, ...]:
    items: list[object] = []
    for size in shape[: draw.draw(st.integers(0, len(shape)))]:
        kind = draw.draw(st.sampled_from(["int", "slice", "step"]))
        start = draw.draw(st.integers(0, size - 1))
        stop = draw.draw(st.integers(start + 1, size))
        if kind == "int":
            items.append(start - size if draw.draw(st.booleans()) else start)
        else:
            items.append(
                slice(start, stop, draw.draw(st.integers(1, 3)) if kind == "step" else None)
            )
    if draw.draw(st.booleans()):
        items.append(Ellipsis)
    return tuple(items)


@settings(max_examples=150, deadline=None)
@given(SHAPES, st.data())
def test_hbm_indexing_is_numpys(shape: tuple[int, ...], data: st.DataObject) -> None:
    array = numbered(shape)
    index = indices(shape, data)
    expected = np.atleast_1d(array[index])
    got = in_kernel(lambda t: values(t[index]), array)
    assert got.shape == expected.shape
    np.testing.assert_array_equal(got, expected)


@settings(max_examples=100, deadline=None)
@given(SHAPES, st.data())
def test_chained_indexing_composes(shape: tuple[int, ...], data: st.DataObject) -> None:
    array = numbered(shape)
    first = indices(shape, data)
    expected = np.atleast_1d(array[first])
    second = indices(expected.shape, data)
    got = in_kernel(lambda t: values(t[first][second]), array)
    np.testing.assert_array_equal(got, np.atleast_1d(expected[second]))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 60), st.data())
def test_access_patterns_are_exact(size: int, data: st.DataObject) -> None:
    """element(i..) = flat[offset + sum(step * i)] for every pattern that stays inside."""
    array = numbered((size,))
    offset = data.draw(st.integers(0, size - 1))
    room, pattern = size - 1 - offset, []
    for _ in range(data.draw(st.integers(1, 4))):
        step = data.draw(st.integers(0, 7))
        count = data.draw(st.integers(1, 4 if step == 0 else room // step + 1))
        room -= step * (count - 1)
        pattern.append([step, count])
    grid = np.indices([count for _, count in pattern])
    places = offset + sum(step * axis for (step, _), axis in zip(pattern, grid, strict=True))
    got = in_kernel(lambda t: values(t.ap(pattern=pattern, offset=offset)), array)
    np.testing.assert_array_equal(got, array[places])


@settings(max_examples=100, deadline=None)
@given(SHAPES, st.data())
def test_reshape_never_copies(shape: tuple[int, ...], data: st.DataObject) -> None:
    """A reshape is NumPy's reshape when that is a view, and refused when it would copy."""
    array = numbered(shape)
    index = indices(shape, data)
    window = np.atleast_1d(array[index])
    divisors = [d for d in range(1, window.size + 1) if window.size % d == 0]
    rows = data.draw(st.sampled_from(divisors))
    new = (rows, window.size // rows)
    try:
        expected = np.reshape(window, new, copy=False)
    except ValueError:
        with pytest.raises(IllegalProgram, match="view of the same memory"):
            in_kernel(lambda t: t[index].reshape(new), array)
        return
    np.testing.assert_array_equal(
        in_kernel(lambda t: values(t[index].reshape(new)), array), expected
    )


@pytest.mark.parametrize(
    ("index", "shape"),
    [
        ((0,), (1, 6, 4)),
        ((slice(None), 2), (8, 4)),
        ((slice(None), 2, 3), (8, 1)),
        ((0, 0, 0), (1, 1)),
        ((slice(0, 4), slice(1, 6, 2), slice(None)), (4, 3, 4)),
        ((Ellipsis, 1), (8, 6)),
        ((nl.ds(0, 4), nl.ds(2, 3)), (4, 3, 4)),
    ],
)
def test_on_chip_indexing_keeps_partition_and_a_free_dimension(
    index: tuple[object, ...], shape: tuple[int, ...]
) -> None:
    assert in_kernel(lambda: tile((8, 6, 4))[index].shape) == shape


@pytest.mark.parametrize(
    ("index", "fragment"),
    [
        ((slice(0, 9),), "not clamped"),
        ((8,), "index lies in"),
        ((slice(0, 8, 2),), "no step along partitions"),
        ((slice(3, 3),), "not empty"),
        ((slice(None), slice(3, 0, -1)), "step is positive"),
        ((None,), "an index is"),
        (([0, 1],), "an index is"),
        ((0, 0, 0), "at most 2 indices"),
        ((True,), "an index is"),
    ],
)
def test_illegal_indices(index: tuple[object, ...], fragment: str) -> None:
    with pytest.raises(IllegalProgram, match=fragment):
        in_kernel(lambda: tile((8, 6))[index])


def test_views_share_bytes() -> None:
    def body() -> list[np.ndarray]:
        base = tile((4, 6))
        nisa.memset(dst=base[:, 2:4], value=1.0)
        nisa.memset(dst=base.reshape((4, 2, 3))[:, 1, 2], value=2.0)
        nisa.memset(dst=base.ap([[6, 4], [1, 1]], offset=0), value=3.0)
        bits = base.view(nl.uint32)
        return [values(base), values(bits), values(base.view(nl.bfloat16))]

    base, bits, halves = in_kernel(body)
    np.testing.assert_array_equal(base, np.tile([3, 0, 1, 1, 0, 2], (4, 1)))
    np.testing.assert_array_equal(bits, base.view(np.uint32))
    assert halves.shape == (4, 12)


def test_view_rescales_the_last_dimension_of_slices() -> None:
    def body() -> tuple[tuple[int, ...], tuple[int, ...]]:
        base = tile((4, 8), dtype="uint8")
        return base[:, 4:8].view(nl.float32).shape, base.view(nl.uint16)[:, 1:3].view(
            nl.uint8
        ).shape

    assert in_kernel(body) == ((4, 1), (4, 4))
    with pytest.raises(IllegalProgram, match="divide into elements of 4"):
        in_kernel(lambda: tile((4, 8), dtype="uint8")[:, 2:6].view(nl.float32))


def test_view_methods_of_2_31() -> None:
    def body(t: object) -> dict[str, np.ndarray]:
        return {
            "permute": values(t.permute((2, 0, 1))),
            "slice": values(t.slice(1, 0, 3, 2)),
            "select": values(t.select(0, 1)),
            "broadcast": values(t.select(2, 0).expand_dim(1).broadcast(1, 3)),
            "squeeze": values(t[0:1].squeeze_dim(0)),
            "split": values(t.reshape_dim(2, (2, 2))),
            "merge": values(t.flatten_dims(0, 1)),
        }

    a = numbered((2, 3, 4))
    expected = {
        "permute": a.transpose(2, 0, 1),
        "slice": a[:, 0:3:2],
        "select": a[1],
        "broadcast": np.broadcast_to(a[:, :, 0][:, None], (2, 3, 3)),
        "squeeze": a[0],
        "split": a.reshape(2, 3, 2, 2),
        "merge": a.reshape(6, 4),
    }
    got = in_kernel(body, a)
    for name, want in expected.items():
        np.testing.assert_array_equal(got[name], want, err_msg=name)


@pytest.mark.parametrize(
    ("pattern", "offset", "fragment"),
    [
        ([[5, 8], [1, 6]], 0, "steps by the 6 elements"),
        ([[6, 8], [-1, 2]], 1, "list of"),
        ([[6, 8]], 0, "a partition and a free pair"),
        ([[6, 8], [1, 6]], -1, "non-negative"),
    ],
)
def test_illegal_access_patterns(pattern: list[list[int]], offset: int, fragment: str) -> None:
    with pytest.raises(IllegalProgram, match=fragment):
        in_kernel(lambda: tile((8, 6)).ap(pattern, offset))


STRAY_USES = [
    lambda stray, own: nisa.tensor_copy(dst=own, src=stray),
    lambda stray, own: nisa.tensor_copy(dst=stray, src=own),
    lambda stray, own: nisa.dma_copy(dst=own, src=stray),
    lambda stray, own: stray[0:1],
    lambda stray, own: stray.reshape((1, 1)),
    lambda stray, own: stray.ap([[1, 1], [1, 1]]),
    lambda stray, own: values(stray),
]


@pytest.mark.parametrize("use", STRAY_USES)
@pytest.mark.parametrize(
    ("pattern", "offset"),
    [([[6, 8], [1, 7]], 0), ([[6, 8], [1, 6]], 6), ([[6, 1], [1, 1]], 48)],
)
def test_stray_patterns_are_refused_where_they_are_used(
    use: object, pattern: list[list[int]], offset: int
) -> None:
    """Making one is no error: kernels do it in rounds of a loop that leave it alone."""

    def body() -> None:
        own = tile((8, 6))
        stray = own.ap(pattern, offset)
        with pytest.raises(IllegalProgram, match="stays inside"):
            use(stray, tile(stray.shape))

    in_kernel(body)


def test_stray_patterns_in_hbm_are_refused_where_they_are_used() -> None:
    def body(x: object) -> None:
        stray = x.ap([[6, 4], [1, 6]], offset=1)
        with pytest.raises(IllegalProgram, match="stays inside"):
            nisa.dma_copy(dst=tile((4, 6)), src=stray)

    in_kernel(body, numbered((4, 6)))


def test_step_zero_destination_is_a_bit_bucket() -> None:
    """Only the last element written remains; the tile counts as written where it was."""

    def body(x: object) -> np.ndarray:
        source = nl.ndarray((4, 6), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=source, src=x)
        bucket = nl.ndarray((4, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_copy(dst=bucket.ap([[1, 4], [0, 6]], offset=0), src=source)
        bucket.require_written("test", "bucket")
        return values(bucket)

    array = numbered((4, 6))
    np.testing.assert_array_equal(in_kernel(body, array), array[:, 5:])


@pytest.mark.parametrize("use", [lambda t: t + t, lambda t: -t, bool, list, np.asarray, len, float])
def test_tensors_have_no_python_operators(use: object) -> None:
    with pytest.raises(IllegalProgram):
        in_kernel(lambda: use(tile((4, 4))))


def test_assignment_is_refused() -> None:
    def body() -> None:
        tile((4, 4))[...] = 1.0

    with pytest.raises(IllegalProgram, match="written by instructions"):
        in_kernel(body)
