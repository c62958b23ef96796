"""Chains of view methods, access patterns on slices and dynamic offsets, against NumPy."""

from __future__ import annotations

import math
import warnings
from typing import Any

import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nki_sim.errors import IllegalProgram, NotModelled, SimulationError, UninitialisedRead

from .support import in_kernel, loaded, tile, values

SHAPES = st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple)


def numbered(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    return np.arange(math.prod(shape), dtype=dtype).reshape(shape)


# -- chains of methods -----------------------------------------------------------------------------


def draw_step(array: np.ndarray, draw: Any, first: int) -> tuple[str, tuple[Any, ...], np.ndarray]:
    """A legal method call on a view of `array`'s shape, and what NumPy makes of it.

    Args:
        array: the expected contents so far.
        draw: hypothesis' draw.
        first: 1 on chip, where dimension 0 stays what it is, else 0.
    """
    rank = array.ndim
    dim = draw(st.integers(first, rank - 1))
    size = array.shape[dim]
    whole = (slice(None),) * dim
    kinds = ["slice", "select", "permute", "expand_dim", "reshape_dim", "rearrange", "index"]
    kinds += ["broadcast", "squeeze_dim"] if size == 1 else []
    kinds += ["flatten_dims"] if dim + 1 < rank else []
    kind = draw(st.sampled_from(kinds))
    if kind == "slice":
        start = draw(st.integers(0, size - 1))
        end, step = draw(st.integers(start + 1, size)), draw(st.integers(1, 3))
        return kind, (dim, start, end, step), array[(*whole, slice(start, end, step))]
    if kind == "index":
        start = draw(st.integers(0, size - 1))
        return kind, (dim, start, size - start), array[(*whole, slice(start, size))]
    if kind == "select":
        if rank - 1 <= first:
            return draw_step(array, draw, first)
        place = draw(st.integers(0, size - 1))
        return kind, (dim, place), array[(*whole, place)]
    if kind == "permute":
        order = [*range(first), *draw(st.permutations(range(first, rank)))]
        return kind, (tuple(order),), array.transpose(order)
    if kind == "expand_dim":
        place = draw(st.integers(first, rank))
        return kind, (place,), np.expand_dims(array, place)
    if kind == "broadcast":
        times = draw(st.integers(1, 4))
        shape = (*array.shape[:dim], times, *array.shape[dim + 1 :])
        return kind, (dim, times), np.broadcast_to(array, shape)
    if kind == "squeeze_dim":
        if rank - 1 <= first:
            return draw_step(array, draw, first)
        return kind, (dim,), array.squeeze(dim)
    if kind in ("reshape_dim", "rearrange"):
        outer = draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
        split = array.reshape((*array.shape[:dim], outer, size // outer, *array.shape[dim + 1 :]))
        if kind == "reshape_dim":
            return kind, (dim, draw(st.sampled_from([(outer, -1), (outer, size // outer)]))), split
        names = [f"d{i}" for i in range(rank)]
        inner = [*names[:dim], "out", "in", *names[dim + 1 :]]
        order = [*range(first), *draw(st.permutations(range(first, rank + 1)))]
        source = (*names[:dim], ("out", "in"), *names[dim + 1 :])
        target = tuple(inner[i] for i in order)
        return kind, (source, target, {"out": outer}), split.transpose(order)
    shape = array.shape
    merged = (*shape[:dim], size * shape[dim + 1], *shape[dim + 2 :])
    return kind, (dim, dim + 1), np.array(array).reshape(merged)


def apply(view: Any, kind: str, arguments: tuple[Any, ...]) -> Any:
    if kind == "index":
        dim, start, size = arguments
        return view[(slice(None),) * dim + (nl.ds(start, size),)]
    return getattr(view, kind)(*arguments)


def check_chain(tensor: Any, array: np.ndarray, data: st.DataObject, first: int) -> None:
    """Five steps; a view that would need a copy is refused, everything else is NumPy's."""
    view, expected = tensor, array
    for _ in range(5):
        kind, arguments, wanted = draw_step(expected, data.draw, first)
        if wanted.size > 400 or wanted.ndim > 6:
            continue
        try:
            view, expected = apply(view, kind, arguments), wanted
        except IllegalProgram as refusal:
            assert kind == "flatten_dims", refusal
            strides = np.array(view.strides)[arguments[0] : arguments[1] + 1]
            sizes = np.array(view.shape)[arguments[0] : arguments[1] + 1]
            assert (sizes > 1).all() and strides[0] != strides[1] * sizes[1]
            continue
        assert view.shape == expected.shape, (kind, arguments)
        np.testing.assert_array_equal(values(view), expected, err_msg=f"{kind}{arguments}")
    pattern = view.get_pattern()
    assert [count for _, count in pattern] == list(view.shape)
    rebuilt = tensor.ap(pattern, offset=view.offset)
    np.testing.assert_array_equal(values(rebuilt), expected)
    dense = np.ascontiguousarray(expected[:1] if first else expected).strides
    steps = [s * n for s, n in zip(view.strides, (1,) * view.ndim, strict=True)]
    same = all(
        size == 1 or step * 4 == stride
        for size, step, stride in list(zip(view.shape, steps, dense, strict=True))[first:]
    )
    assert view.is_contiguous() == same and not view.is_indirect()


@settings(max_examples=250, deadline=None)
@given(SHAPES, st.data())
def test_chains_of_methods_in_hbm(shape: tuple[int, ...], data: st.DataObject) -> None:
    array = numbered(shape)
    in_kernel(lambda t: check_chain(t, array, data, 0), array)


@settings(max_examples=250, deadline=None)
@given(SHAPES, st.data())
def test_chains_of_methods_on_chip(shape: tuple[int, ...], data: st.DataObject) -> None:
    array = numbered(shape)
    in_kernel(lambda t: check_chain(loaded(t), array, data, 1), array)


def test_views_write_through() -> None:
    """What an instruction writes to a chain of views is where NumPy's chain writes it."""

    def body() -> np.ndarray:
        base = tile((4, 24))
        view = base.reshape_dim(1, (2, 3, 4)).permute((0, 3, 1, 2)).slice(1, 1, 4, 2).select(2, 1)
        nisa.iota(dst=view, pattern=[[3, 2], [1, 3]], offset=1, channel_multiplier=10)
        return values(base)

    wanted = np.zeros((4, 24), np.float32)
    window = wanted.reshape(4, 2, 3, 4).transpose(0, 3, 1, 2)[:, 1:4:2, 1]
    window[...] = 1 + numbered((2, 3)) + 10 * np.arange(4)[:, None, None]
    np.testing.assert_array_equal(in_kernel(body), wanted)


def test_reshape_spellings() -> None:
    def body() -> list[tuple[int, ...]]:
        t = tile((4, 6))
        return [
            t.reshape((4, 2, 3)).shape,
            t.reshape([4, 2, 3]).shape,
            t.reshape(4, 2, 3).shape,
            t.reshape(new_shape=(4, 2, 3)).shape,
            t.reshape(shape=(4, 2, 3)).shape,
        ]

    assert in_kernel(body) == [(4, 2, 3)] * 5


def test_attributes() -> None:
    def body() -> None:
        t = nl.ndarray((4, 6, 2), dtype=nl.bfloat16, buffer=nl.sbuf, name="weights")
        view = t[1:3, 2]
        assert (view.shape, view.strides, view.offset) == ((2, 2), (12, 1), 16)
        assert (view.ndim, view.size, view.dtype) == (2, 4, "bfloat16")
        assert (view.name, view.buffer) == ("weights", nl.sbuf)
        assert t.is_identity() and not view.is_identity() and view.device_value is None
        assert view.is_contiguous() and not t[:, :, 0].is_contiguous()

    in_kernel(body)


@pytest.mark.parametrize(
    ("use", "fragment"),
    [
        (lambda t: t.permute((1, 0, 2)), "partition first"),
        (lambda t: t.permute((0, 1)), "partition first"),
        (lambda t: t.permute("021"), "partition first"),
        (lambda t: t.expand_dim(0), "free dimension"),
        (lambda t: t.expand_dim(4), "free dimension"),
        (lambda t: t.broadcast(1, 2), "size 1"),
        (lambda t: t[:, 0:1].broadcast(1, 0), "positive"),
        (lambda t: t.squeeze_dim(1), "size 1"),
        (lambda t: t[0:1].squeeze_dim(0), "free dimension"),
        (lambda t: t.reshape_dim(0, (2, 2)), "free dimension"),
        (lambda t: t.reshape_dim(1, (4, 2)), "product is 6"),
        (lambda t: t.reshape_dim(1, (-1, -1)), "product is 6"),
        (lambda t: t.reshape_dim(1, 6), "product is 6"),
        (lambda t: t.flatten_dims(0, 1), "free dimensions"),
        (lambda t: t[:, 0:3, 0:1].flatten_dims(2, 1), "free dimensions"),
        (lambda t: t[:, :, 0:1].broadcast(2, 2).flatten_dims(1, 2), "contiguous"),
        (lambda t: t.slice(3, 0, 1), "0 to 2"),
        (lambda t: t.slice(1, 0, 7), "not clamped"),
        (lambda t: t.slice(1, 0, 2, 0), "step is positive"),
        (lambda t: t.select(1, 6), "index lies in"),
        (lambda t: t.select("x", 1), "names a dimension"),
        (lambda t: t.rearrange(("p", "a"), ("p", "a")), "names the 3 dimensions"),
        (lambda t: t.rearrange(("p", "a", "b"), ("p", "a")), "same names"),
        (lambda t: t.rearrange(("p", "a", "a"), ("p", "a", "a")), "same names"),
        (lambda t: t.rearrange("pab", "pba"), "tuple of names"),
        (lambda t: t.rearrange(("p", "a", 3), ("p", "a", 3)), "tuple of names"),
        (lambda t: t.rearrange(("p", "a", "b"), ("a", "p", "b")), "partition first"),
        (lambda t: t.rearrange(("p", ("x", "y"), "b"), ("p", "x", "y", "b")), "product is 6"),
        (lambda t: t.reshape(), "one shape"),
        (lambda t: t.reshape((4, 12), new_shape=(4, 12)), "one shape"),
        (lambda t: t.reshape(size=(4, 12)), "one shape"),
        (lambda t: t.reshape(3.5), "positive integer"),
        (lambda t: t.ap(5), "list of"),
        (lambda t: t.ap([3, 4]), "list of"),
    ],
)
def test_refusals(use: Any, fragment: str) -> None:
    with pytest.raises(IllegalProgram, match=fragment):
        in_kernel(lambda: use(tile((4, 6, 2))))


METHODS = (
    "slice", "select", "permute", "expand_dim", "squeeze_dim", "broadcast", "reshape_dim",
    "flatten_dims", "rearrange", "reshape", "ap", "view",
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(METHODS),
    st.lists(
        st.one_of(
            st.integers(-2, 9),
            st.none(),
            st.text(max_size=2),
            st.floats(allow_nan=False),
            st.lists(st.integers(-2, 9), max_size=3),
            st.lists(st.lists(st.integers(-1, 9), max_size=2), max_size=3).map(tuple),
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_nonsense_is_refused_in_words(method: str, arguments: list[Any]) -> None:
    """Any call ends in a view or in one of the simulator's own errors (or Python's on arity)."""

    def body() -> None:
        tensor = tile((4, 6, 2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                getattr(tensor, method)(*arguments)
            except SimulationError:
                pass
            except TypeError as error:
                assert "argument" in str(error), error

    in_kernel(body)


# -- access patterns -------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 6), st.integers(1, 24), st.data())
def test_on_chip_patterns(rows: int, row: int, data: st.DataObject) -> None:
    """Partition step, free steps (0 too) and an offset of partition and element."""
    array = numbered((rows, row))
    partition = data.draw(st.integers(0, rows - 1))
    first = data.draw(st.integers(0, row - 1))
    count = data.draw(st.integers(1, rows - partition))
    room, free = row - 1 - first, []
    for _ in range(data.draw(st.integers(1, 3))):
        step = data.draw(st.integers(0, 4))
        number = data.draw(st.integers(1, 3 if step == 0 else room // step + 1))
        room -= step * (number - 1)
        free.append([step, number])
    places = np.zeros(1, np.int64) + first
    for step, number in free:
        places = (places[:, None] + np.arange(number) * step).reshape(-1)
    wanted = array[partition : partition + count][:, places]
    pattern = [[row, count], *free]
    got = in_kernel(lambda t: values(loaded(t).ap(pattern, offset=partition * row + first)), array)
    np.testing.assert_array_equal(got, wanted.reshape([count, *(n for _, n in free)]))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "bfloat16", "uint32", "float8_e4m3fn_x4"])
def test_patterns_that_reinterpret(dtype: str) -> None:
    """Steps, counts and the offset are in elements of the new type."""
    array = numbered((4, 6))
    size = {"uint8": 1, "int16": 2, "bfloat16": 2}.get(dtype, 4)
    row = 24 // size

    def body(t: Any) -> tuple[np.ndarray, str]:
        view = loaded(t).ap([[row, 2], [2, row // 2]], offset=row + 1, dtype=dtype)
        return values(view), view.dtype

    got, kind = in_kernel(body, array)
    raw = array.view(f"u{size}")[1:3, 1::2]
    assert kind == dtype
    np.testing.assert_array_equal(got.view(f"u{size}"), raw)


def test_a_column_of_a_tile_with_the_partition_step_of_the_view() -> None:
    """What a published kernel writes: step 1 means one partition of a column, offset 0 its top."""
    array = numbered((8, 6))

    def body(t: Any) -> np.ndarray:
        column = loaded(t)[:, 4:5]
        return values(column.ap([[1, 8], [1, 1]], offset=0))

    with pytest.warns(UserWarning, match="sliced tensor"):
        got = in_kernel(body, array)
    np.testing.assert_array_equal(got, array[:, 4:5])


@pytest.mark.parametrize(
    ("index", "pattern", "offset", "wanted"),
    [
        # the storage's row is the partition step; the offset counts from the slice
        ((slice(None), slice(2, 6)), [[12, 8], [1, 3]], 1, np.s_[:, 3:6]),
        ((slice(None), slice(2, 6)), [[12, 8], [2, 2]], None, np.s_[:, 2:6:2]),
        ((slice(0, 4),), [[12, 4], [1, 12]], 0, np.s_[:4]),
        ((slice(4, 8), slice(6, 12)), [[12, 2], [1, 4]], 13, np.s_[5:7, 7:11]),
        # the view's own elements: its free size is the partition step
        ((slice(None), slice(2, 6)), [[4, 8], [1, 4]], 0, np.s_[:, 2:6]),
        ((slice(None), slice(0, 12, 3)), [[4, 8], [1, 4]], 0, np.s_[:, ::3]),
        ((slice(None), slice(0, 12, 3)), [[4, 8], [2, 2]], 1, np.s_[:, 3::6]),
    ],
)
def test_patterns_on_slices(index: Any, pattern: Any, offset: Any, wanted: Any) -> None:
    array = numbered((8, 12))
    with pytest.warns(UserWarning, match="sliced tensor"):
        got = in_kernel(lambda t: values(loaded(t)[index].ap(pattern, offset)), array)
    np.testing.assert_array_equal(got, array[wanted])


def test_patterns_on_slices_in_hbm() -> None:
    array = numbered((5, 4, 6))

    def body(t: Any) -> list[np.ndarray]:
        return [
            values(t[2].ap([[6, 4], [1, 6]], 0)),
            values(t[2, 1:3].ap([[1, 6]], 6)),
            values(t[:, 1].ap([[24, 5], [1, 6]], 0)),
        ]

    with pytest.warns(UserWarning, match="sliced tensor"):
        got = in_kernel(body, array)
    for one, wanted in zip(got, (array[2], array[2, 2], array[:, 1]), strict=True):
        np.testing.assert_array_equal(one, wanted)


@pytest.mark.parametrize(
    ("index", "pattern", "error", "fragment"),
    [
        ((slice(None), slice(0, 12, 3)), [[12, 1], [6, 2]], None, ""),
        ((slice(0, 1), slice(0, 12, 3)), [[12, 1], [3, 2]], NotModelled, "documents disagree"),
        ((slice(None), slice(2, 6)), [[12, 8], [1, 5]], IllegalProgram, "inside the slice"),
        ((slice(None), slice(2, 6)), [[5, 8], [1, 4]], IllegalProgram, "inside the slice"),
        ((slice(0, 2),), [[12, 3], [1, 12]], IllegalProgram, "inside the slice"),
        ((slice(0, 2),), [[12, 2]], IllegalProgram, "partition and a free pair"),
    ],
)
def test_unclear_patterns_on_slices(index: Any, pattern: Any, error: Any, fragment: str) -> None:
    def body() -> Any:
        return tile((8, 12))[index].ap(pattern, 0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if error is None:
            in_kernel(body)
        else:
            with pytest.raises(error, match=fragment):
                in_kernel(body)


# -- dynamic offsets -------------------------------------------------------------------------------


def index_tile(numbers: Any, dtype: str = "int32") -> Any:
    """An SBUF column with `numbers`."""
    made = nl.ndarray((len(numbers), 1), dtype=dtype)
    for row, number in enumerate(numbers):
        nisa.dma_copy(dst=made[row : row + 1], src=tile((1, 1), dtype, value=number))
    return made


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 3), st.integers(0, 4), st.data())
def test_dynamic_select_in_hbm(dim: int, place: int, data: st.DataObject) -> None:
    """select(dim, tensor) on any view is NumPy's take, in a DMA in and out."""
    array = numbered((5, 5, 6, 7))
    start = data.draw(st.integers(0, array.shape[dim] - place - 1)) if place < 5 else 0
    window = (slice(None),) * dim + (slice(start, None),)
    wanted = array[window].take(place, axis=dim)

    def body(t: Any) -> tuple[np.ndarray, bool]:
        view = t[window].select(dim, index_tile([place]))
        copy = nl.ndarray(view.shape, dtype=nl.float32)
        nisa.dma_copy(dst=copy, src=view)
        part = view.slice(1, 1, 3).permute((0, 2, 1))
        piece = nl.ndarray(part.shape, dtype=nl.float32)
        nisa.dma_copy(dst=piece, src=part)
        nisa.dma_copy(dst=view, src=tile(view.shape))
        return values(copy), values(piece), view.is_indirect()

    given_array = array.copy()
    copy, piece, indirect = in_kernel(body, given_array)
    assert indirect
    np.testing.assert_array_equal(copy, wanted)
    np.testing.assert_array_equal(piece, wanted[:, 1:3].transpose(0, 2, 1))
    array[window][(slice(None),) * dim + (place,)] = 0
    np.testing.assert_array_equal(given_array, array)


def test_vector_select_in_hbm() -> None:
    array, rows = numbered((9, 4, 3)), [7, 0, 3, 3, 2]

    def body(t: Any) -> np.ndarray:
        view = t[1:9].vector_select(0, index_tile(rows, "uint32"))
        assert view.shape == (5, 4, 3) and view.is_indirect()
        copy = nl.ndarray((5, 2), dtype=nl.float32)
        nisa.dma_copy(dst=copy, src=view.select(2, 1).slice(1, 2, 4))
        return values(copy)

    np.testing.assert_array_equal(in_kernel(body, array), array[1:][rows][:, 2:4, 1])


@pytest.mark.parametrize("buffer", ["sbuf", "psum"])
def test_scalar_offsets_on_chip(buffer: str) -> None:
    """Compute instructions read and write at an offset that is read when they run."""
    array = numbered((4, 5, 3))

    def body(t: Any) -> tuple[np.ndarray, np.ndarray]:
        source = nl.ndarray((4, 5, 3), dtype=nl.float32, buffer=getattr(nl, buffer))
        nisa.tensor_copy(dst=source, src=loaded(t))
        where = tile((1, 1), "int32", value=1)
        window = source.ap([[15, 4], [1, 3]], 0, scalar_offset=where, indirect_dim=1)
        result, target = tile((4, 3)), tile((4, 5, 3))
        nisa.memset(dst=where, value=3)
        nisa.tensor_copy(dst=result, src=window)
        nisa.tensor_scalar(dst=target.select(1, where), data=result, op0=nl.multiply, operand0=2.0)
        nisa.dma_copy(dst=target.select(2, tile((1, 1), "int32", value=0)), src=tile((4, 5)))
        return values(result), values(target)

    result, target = in_kernel(body, array)
    np.testing.assert_array_equal(result, array[:, 3])
    wanted = np.zeros_like(array)
    wanted[:, 3, 1:] = 2 * array[:, 3, 1:]
    np.testing.assert_array_equal(target, wanted)


@pytest.mark.parametrize(
    ("use", "error", "fragment"),
    [
        (lambda t, h, i: t.select(0, i), IllegalProgram, "counts a free dimension"),
        (lambda t, h, i: t.ap([[6, 1], [1, 2]], 0, scalar_offset=i), IllegalProgram, "free"),
        (lambda t, h, i: t.vector_select(0, i), IllegalProgram, "rows of an HBM tensor"),
        (lambda t, h, i: h.vector_select(1, i), IllegalProgram, "0 with a vector_offset"),
        (lambda t, h, i: h.vector_select("0", i), IllegalProgram, "dim is 0"),
        (lambda t, h, i: h.select(0, i).select(0, i), IllegalProgram, "one dynamic offset"),
        (lambda t, h, i: h.vector_select(0, i).slice(0, 0, 1), IllegalProgram, "as it is"),
        (lambda t, h, i: h.vector_select(0, i)[0:1], IllegalProgram, "as they are"),
        (lambda t, h, i: h.vector_select(0, i).permute((1, 0)), IllegalProgram, "first"),
        (lambda t, h, i: h.select(0, i).view(nl.uint8), IllegalProgram, "before a dynamic"),
        (lambda t, h, i: h.select(0, i).ap([[1, 1]], 0), IllegalProgram, "at most one access"),
        (lambda t, h, i: h.select(0, 1.5), SimulationError, "1.5"),
        (lambda t, h, i: h.select(0, t), IllegalProgram, "int32 or uint32 tile"),
        (lambda t, h, i: t[:, 0:1].broadcast(1, 3).select(1, i), IllegalProgram, "repeated"),
    ],
)
def test_dynamic_refusals(use: Any, error: Any, fragment: str) -> None:
    with pytest.raises(error, match=fragment):
        in_kernel(lambda h: use(tile((4, 6)), h, tile((1, 1), "int32")), numbered((3, 6)))


def test_dynamic_offsets_stay_inside() -> None:
    def read(place: int) -> None:
        view = tile((4, 6, 2)).select(1, tile((1, 1), "int32", value=place))
        nisa.tensor_copy(dst=tile((4, 2)), src=view)

    in_kernel(read, 5)
    for place in (6, -1):
        with pytest.raises(IllegalProgram, match="stays inside the partitions"):
            in_kernel(read, place)

    def pattern() -> None:
        where = tile((1, 1), "int32", value=5)
        view = tile((4, 6)).ap([[6, 4], [1, 2]], 0, scalar_offset=where, indirect_dim=1)
        nisa.tensor_copy(dst=tile((4, 2)), src=view)

    with pytest.raises(IllegalProgram, match="stays inside the partitions"):
        in_kernel(pattern)

    def hbm(t: Any) -> None:
        nisa.dma_copy(dst=tile((1, 6)), src=t[0:2].select(0, tile((1, 1), "int32", value=2)))

    with pytest.raises(IllegalProgram, match="stays inside the tensor"):
        in_kernel(hbm, numbered((3, 6)))


# -- tensor indirection ----------------------------------------------------------------------------


@pytest.fixture
def on_trn3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn3")


def snake(offsets: np.ndarray, group: int) -> np.ndarray:
    """Offsets [groups, n] in the layout of tensor indirection: [groups * group, n / group]."""
    return np.concatenate([line.reshape(-1, group).T for line in offsets]).astype(np.uint16)


@pytest.mark.usefixtures("on_trn3")
@pytest.mark.parametrize("engine", ["vector", "scalar", "gpsimd"])
def test_gathering_columns(engine: str) -> None:
    rng = np.random.default_rng(5)
    data = rng.standard_normal((64, 40)).astype(np.float32)
    offsets = rng.integers(0, 40, (4, 32))

    def body(data: Any, index: Any) -> np.ndarray:
        view = loaded(data).indirect(loaded(index), num_elem=27)
        assert view.shape == (64, 27) and view.is_indirect()
        result = nl.ndarray((64, 27), dtype=nl.float32)
        nisa.tensor_copy(dst=result, src=view, engine=getattr(nisa.engine, engine))
        return values(result)

    wanted = np.stack([data[p, offsets[p // 16, :27]] for p in range(64)])
    np.testing.assert_array_equal(in_kernel(body, data, snake(offsets, 16)), wanted)


@pytest.mark.usefixtures("on_trn3")
def test_gathering_on_the_tensor_engine_uses_groups_of_32() -> None:
    rng = np.random.default_rng(6)
    data = rng.integers(-4, 5, (64, 40)).astype(np.float32)
    offsets = rng.integers(0, 40, (2, 32))

    def body(data: Any, index: Any, weights: Any) -> np.ndarray:
        total = nl.ndarray((8, 32), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul(
            dst=total, stationary=loaded(weights), moving=loaded(data).indirect(loaded(index), 32)
        )
        return values(total)

    weights = rng.integers(-4, 5, (64, 8)).astype(np.float32)
    gathered = np.stack([data[p, offsets[p // 32]] for p in range(64)])
    got = in_kernel(body, data, snake(offsets, 32), weights)
    np.testing.assert_array_equal(got, weights.T @ gathered)


@pytest.mark.usefixtures("on_trn3")
def test_scattering_columns() -> None:
    data, offsets = numbered((16, 4)), np.array([[9, 2, 5, 0] + [0] * 12])

    def body(data: Any, index: Any) -> tuple[np.ndarray, np.ndarray]:
        target = nl.ndarray((16, 12), dtype=nl.float32)
        nisa.tensor_scalar(
            dst=target.indirect(loaded(index), 4), data=loaded(data), op0=nl.add, operand0=1.0
        )
        return values(target), target.written_map()

    target, written = in_kernel(body, data, snake(offsets, 16))
    assert written.sum() == 64 and written[:, [9, 2, 5, 0]].all()
    np.testing.assert_array_equal(target[:, [9, 2, 5, 0]], data + 1)


@pytest.mark.usefixtures("on_trn3")
@pytest.mark.parametrize(
    ("use", "error", "fragment"),
    [
        (lambda d, i: d.indirect(i, 17), IllegalProgram, "one offset per column"),
        (lambda d, i: d.indirect(i), None, ""),
        (lambda d, i: d[0:8].indirect(i[0:8], 9), IllegalProgram, "whole groups"),
        (lambda d, i: d[:, 0:2].indirect(i, 4), IllegalProgram, "smaller than the 2"),
        (lambda d, i: d.indirect(i, 4)[:, 0:1], IllegalProgram, "not indexed further"),
        (lambda d, i: d.indirect(i, 4).permute((0, 1)), IllegalProgram, "viewed further"),
        (lambda d, i: d.indirect(i, 4).view(nl.uint8), IllegalProgram, "viewed further"),
        (lambda d, i: d.indirect(i, 4).array, IllegalProgram, "operand of an instruction"),
        (lambda d, i: d.indirect(d, 4), IllegalProgram, "uint16"),
        (lambda d, i: d[0:8].indirect(i, 4), IllegalProgram, "8 partitions"),
        (lambda d, i: d.indirect(i, 0), IllegalProgram, "positive"),
        (lambda d, i: d.indirect(nl.ndarray((16, 1), nl.uint16), 4), UninitialisedRead, "offsets"),
        (lambda d, i: nl.ndarray((16, 9), nl.float32).indirect(i, 4), UninitialisedRead, "behind"),
    ],
)
def test_indirection_refusals(use: Any, error: Any, fragment: str) -> None:
    def body() -> None:
        view = use(tile((16, 9)), tile((16, 1), nl.uint16, value=5))
        nisa.tensor_copy(dst=nl.ndarray(view.shape, nl.float32), src=view)

    if error is None:
        in_kernel(body)
        return
    with pytest.raises(error, match=fragment):
        in_kernel(body)


def test_indirection_needs_trn3() -> None:
    with pytest.raises(IllegalProgram, match="exists from trn3 on"):
        in_kernel(lambda: tile((16, 9)).indirect(tile((16, 1), nl.uint16), 4))


@pytest.mark.usefixtures("on_trn3")
def test_where_indirection_is_not_taken() -> None:
    def matmul() -> None:
        total = nl.ndarray((16, 9), dtype=nl.float32, buffer=nl.psum)
        place = tile((16, 1), nl.uint16)
        nisa.nc_matmul(total.indirect(place, 8), tile((16, 16)), tile((16, 8)))

    def dma() -> None:
        view = tile((16, 9)).indirect(tile((16, 1), nl.uint16), 4)
        nisa.dma_copy(dst=tile((16, 4)), src=view)

    def bias() -> None:
        view = tile((16, 9)).indirect(tile((16, 1), nl.uint16), 1)
        nisa.activation(dst=tile((16, 4)), op=nl.exp, data=tile((16, 4)), bias=view)

    with pytest.raises(NotModelled, match="updated operand"):
        in_kernel(matmul)
    for body in (dma, bias):
        with pytest.raises(IllegalProgram, match="has no column offsets"):
            in_kernel(body)
