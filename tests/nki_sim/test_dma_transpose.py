"""DMA transposes: every rank, hardware descriptors, gathered rows."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nki_sim
from nki_sim.errors import IllegalProgram, UninitialisedRead

from .support import in_kernel, loaded, tile, values

AXES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 1, 2, 0)}
SIZES = st.integers(1, 6)


def array(shape: tuple[int, ...], dtype: Any = ml_dtypes.bfloat16) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def transposed(x: Any, on_chip: bool = False, **options: Any) -> np.ndarray:
    source = loaded(x) if on_chip else x
    shape = tuple(source.shape[axis] for axis in AXES[source.ndim])
    target = nl.ndarray(shape, dtype=source.dtype)
    nisa.dma_transpose(dst=target, src=source, **options)
    return values(target)


@given(
    shape=st.lists(SIZES, min_size=2, max_size=4),
    dtype=st.sampled_from([np.float32, np.int32, ml_dtypes.bfloat16, np.uint16]),
    explicit=st.booleans(),
    on_chip=st.booleans(),
)
def test_all_ranks(shape: list[int], dtype: Any, explicit: bool, on_chip: bool) -> None:
    axes = AXES[len(shape)]
    x = array(tuple(shape), dtype)
    options = {"axes": axes} if explicit else {}
    np.testing.assert_array_equal(
        in_kernel(lambda x: transposed(x, on_chip, **options), x), x.transpose(axes)
    )


def test_bits_are_kept() -> None:
    bits = np.array([[0x7FC1, 0xFF81], [0x0001, 0x8000]], np.uint16)
    got = in_kernel(transposed, bits.view(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(got.view(np.uint16), bits.T)


def test_the_rank_four_spelling_of_a_matrix() -> None:
    """NKI 0.2 knows rank 4 only: nki-library writes matrices with two dimensions of size 1."""

    def body(x: Any) -> np.ndarray:
        rows, columns = x.shape
        target = tile((columns, 3 * rows), "bfloat16")
        nisa.dma_transpose(
            dst=target.ap([[3 * rows, columns], [1, 1], [1, 1], [1, rows]], offset=rows),
            src=x.ap([[columns, rows], [1, 1], [1, 1], [1, columns]], offset=0),
        )
        return values(target)

    x = array((5, 7))
    expected = np.zeros((7, 15), x.dtype)
    expected[:, 5:10] = x.T
    np.testing.assert_array_equal(in_kernel(body, x), expected)


def test_shapes() -> None:
    def into(shape: tuple[int, ...]) -> Any:
        def body(x: Any) -> None:
            nisa.dma_transpose(dst=nl.ndarray(shape, dtype=x.dtype), src=x)

        return body

    with nki_sim.record() as recording:
        in_kernel(into((4, 1, 2)), array((2, 4)))
    assert "refused from SDK 2.30" in recording.launches[0].warnings[0]
    for shape in ((2, 4), (8, 1), (4, 2, 2)):
        with pytest.raises(IllegalProgram):
            in_kernel(into(shape), array((2, 4)))


@pytest.mark.parametrize(
    ("options", "shape", "dtype", "pattern"),
    [
        ({"axes": (0, 1)}, (2, 4), np.float32, "axes are"),
        ({"axes": (2, 1, 0)}, (2, 4), np.float32, "axes are"),
        ({"axes": 1}, (2, 4), np.float32, "axes are"),
        ({}, (2, 129), np.float32, "at most 128"),
        ({}, (2, 4), np.uint8, "must be of type"),
        ({"dge_mode": nisa.dge_mode.swdge}, (16, 4), np.float16, "made in software"),
        ({"dge_mode": nisa.dge_mode.hwdge}, (16, 4), np.float32, "hardware descriptors transpose"),
        ({"dge_mode": nisa.dge_mode.hwdge}, (8, 4), np.float16, "hardware descriptors transpose"),
        ({"dge_mode": nisa.dge_mode.hwdge}, (3, 16, 4), np.float16, "hardware descriptors tran"),
        ({"dge_mode": nisa.dge_mode.hwdge}, (4, 3, 4), np.float16, "hardware descriptors trans"),
        ({"oob_mode": nisa.oob_mode.skip}, (2, 4), np.float16, "is for dynamic offsets"),
        ({"priority": 2}, (2, 4), np.float16, "from trn3 on"),
        ({"priority": 9}, (2, 4), np.float16, "priority is 0 to 3"),
    ],
)
def test_limits(options: Any, shape: tuple[int, ...], dtype: Any, pattern: str) -> None:
    with pytest.raises(IllegalProgram, match=pattern):
        in_kernel(lambda x: transposed(x, **options), array(shape, dtype))


@pytest.mark.parametrize("shape", [(16, 4), (16, 128), (4, 4, 8), (1, 16, 8), (2, 3, 8, 5)])
def test_hardware_descriptors(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    x = array(shape)

    def body(x: Any) -> np.ndarray:
        return transposed(x, dge_mode=nisa.dge_mode.hwdge)

    np.testing.assert_array_equal(in_kernel(body, x), x.transpose(AXES[x.ndim]))
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn1")
    with pytest.raises(IllegalProgram, match="exist from trn2 on"):
        in_kernel(body, x)


def test_only_sbuf_destinations() -> None:
    def body(x: Any) -> None:
        out = nl.ndarray((4, 2), dtype=x.dtype, buffer=nl.shared_hbm)
        nisa.dma_transpose(dst=out, src=x)

    with pytest.raises(IllegalProgram, match="dst must be in sbuf"):
        in_kernel(body, array((2, 4)))
    with pytest.raises(UninitialisedRead):
        in_kernel(lambda: transposed(nl.ndarray((4, 2), dtype=nl.float32)))


# -- gathered rows ---------------------------------------------------------------------------------

TABLE = array((40, 24), np.uint16)


def gathered(x: Any, index: Any, rows: int, **options: Any) -> np.ndarray:
    columns = x.shape[-1]
    target = tile((columns, rows), x.dtype, value=7)
    source = x.ap([[columns, rows], [1, columns]], 0, vector_offset=loaded(index))
    nisa.dma_transpose(dst=target, src=source, **options)
    return values(target)


@given(
    rows=st.sampled_from([16, 32, 48]),
    extra=st.sampled_from([0, 16]),
    data=st.data(),
)
def test_gathered_rows(rows: int, extra: int, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, 39), min_size=rows + extra, max_size=rows + extra))
    index = np.array(numbers, np.uint32).reshape(-1, 1)
    got = in_kernel(lambda x, i: gathered(x, i, rows), TABLE, index)
    np.testing.assert_array_equal(got, TABLE[index.T.flatten()[:rows]].T)


@pytest.mark.parametrize("rows", [144, 256])
def test_columns_of_indices_follow_one_another(rows: int) -> None:
    index = np.random.default_rng(0).integers(0, 40, (128, 2)).astype(np.uint32)
    options = {"axes": (1, 0), "dge_mode": nisa.dge_mode.swdge}
    got = in_kernel(lambda x, i: gathered(x, i, rows, **options), TABLE, index)
    np.testing.assert_array_equal(got, TABLE[index.T.flatten()[:rows]].T)


def test_gathered_blocks_of_rank_four() -> None:
    def body(x: Any, index: Any) -> np.ndarray:
        _, one, two, three = x.shape
        target = nl.ndarray((three, one, two, 16), dtype=x.dtype)
        pattern = [[one * two * three, 16], [two * three, one], [three, two], [1, three]]
        source = x.ap(pattern, vector_offset=loaded(index), indirect_dim=0)
        nisa.dma_transpose(dst=target, src=source, axes=(3, 1, 2, 0))
        return values(target)

    index = np.arange(16, dtype=np.uint32)[::-1].reshape(-1, 1) + 2
    x = array((20, 1, 3, 4), np.uint16)
    np.testing.assert_array_equal(in_kernel(body, x, index), x[index[:, 0]].transpose(AXES[4]))
    with pytest.raises(IllegalProgram, match="one middle dimension is 1"):
        in_kernel(body, array((20, 2, 3, 4), np.uint16), index)


def test_rows_out_of_range() -> None:
    index = np.array([*range(15), 40], np.uint32).reshape(-1, 1)
    with pytest.raises(IllegalProgram, match="index 40"):
        in_kernel(lambda x, i: gathered(x, i, 16), TABLE, index)
    options = {"oob_mode": nisa.oob_mode.skip}
    got = in_kernel(lambda x, i: gathered(x, i, 16, **options), TABLE, index)
    np.testing.assert_array_equal(got[:, :15], TABLE[:15].T)
    assert (got[:, 15] == 7).all()


def test_gather_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    def index(rows: int, dtype: Any = np.uint32) -> np.ndarray:
        return np.zeros((rows, 1), dtype)

    refused = [
        (TABLE, index(8), 8, {}, "a multiple of 16"),
        (TABLE, index(16, np.int32), 16, {}, "uint32"),
        (TABLE.astype(np.uint32), index(16), 16, {}, "2-byte elements"),
        (TABLE, index(16), 16, {"dge_mode": nisa.dge_mode.hwdge}, "made in software"),
        (TABLE, index(16), 16, {"dge_mode": nisa.dge_mode.none}, "made in software"),
        (TABLE, index(16), 32, {}, "a dynamic offset is"),
        (TABLE, np.zeros((64, 2), np.uint32), 128, {}, "128 partitions"),
    ]
    for table, rows, count, options, pattern in refused:
        with pytest.raises(IllegalProgram, match=pattern):
            in_kernel(lambda x, i, c=count, o=options: gathered(x, i, c, **o), table, rows)
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn1")
    with pytest.raises(IllegalProgram, match="from trn2 on"):
        in_kernel(lambda x, i: gathered(x, i, 16), TABLE, index(16))
