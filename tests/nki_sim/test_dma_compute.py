"""Sums inside DMAs, and the parameters and warnings that all DMAs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nki_sim
from nki_sim.errors import IllegalProgram, NotModelled, UninitialisedRead

from .support import in_kernel, loaded, tile, values

BF16 = ml_dtypes.bfloat16
TYPES = st.sampled_from(["float32", "bfloat16", "float16", "int32", "uint8"])


def numpy_type(name: str) -> Any:
    return BF16 if name == "bfloat16" else np.dtype(name)


def column(numbers: list[int], dtype: Any = np.int32) -> np.ndarray:
    return np.array(numbers, dtype).reshape(-1, 1)


# -- sums ------------------------------------------------------------------------------------------


@given(
    count=st.integers(2, 16),
    sources=st.lists(TYPES, min_size=16, max_size=16),
    target=TYPES,
    hbm=st.booleans(),
)
def test_sums_are_fp32_and_rounded_once(
    count: int, sources: list[str], target: str, hbm: bool
) -> None:
    rng = np.random.default_rng(count)
    arrays = [rng.integers(0, 16, (4, 6)).astype(numpy_type(d)) for d in sources[:count]]

    def body(*tensors: Any) -> np.ndarray:
        buffer = nl.shared_hbm if hbm else nl.sbuf
        out = nl.ndarray((4, 6), dtype=target, buffer=buffer)
        given = [loaded(t) if n % 2 else t for n, t in enumerate(tensors)]
        nisa.dma_compute(dst=out, srcs=given, scales=[1.0] * count, reduce_op=nl.add)
        return values(out)

    exact = sum(a.astype(np.float32) for a in arrays)
    np.testing.assert_array_equal(in_kernel(body, *arrays), exact.astype(numpy_type(target)))


def test_intermediate_sums_are_not_rounded() -> None:
    def body(*tensors: Any) -> np.ndarray:
        out = nl.ndarray((1, 1), dtype=nl.bfloat16)
        nisa.dma_compute(out, tensors, nl.add)
        return values(out)

    arrays = [np.full((1, 1), v, BF16) for v in (256, 1, 1)]
    assert float(in_kernel(body, *arrays)[0, 0]) == 258


@pytest.mark.parametrize(
    "call",
    [
        lambda d, s: nisa.dma_compute(d, s, nl.add),
        lambda d, s: nisa.dma_compute(d, s, nl.add, [1.0, 1.0], True),
        lambda d, s: nisa.dma_compute(d, s, [1.0, 1.0], nl.add),
        lambda d, s: nisa.dma_compute(dst=d, srcs=tuple(s), scales=(1.0, 1), reduce_op=nl.add),
    ],
)
def test_both_orders_of_parameters(call: Callable[[Any, Any], None]) -> None:
    def body() -> np.ndarray:
        out = nl.ndarray((2, 2), dtype=nl.float32)
        call(out, [tile((2, 2), value=1), tile((2, 2), value=2)])
        return values(out)

    assert (in_kernel(body) == 3).all()


def test_in_place_and_other_shapes() -> None:
    def body(x: Any) -> np.ndarray:
        total = tile((4, 6), value=1)
        nisa.dma_compute(dst=total, srcs=[total, x], reduce_op=nl.add)
        return values(total)

    x = np.arange(24, dtype=np.float32).reshape(2, 12)
    np.testing.assert_array_equal(in_kernel(body, x), x.reshape(4, 6) + 1)


def test_limits() -> None:
    def case(**replaced: Any) -> Callable[[], None]:
        def body() -> None:
            call: dict[str, Any] = {"dst": tile((2, 2)), "reduce_op": nl.add}
            call["srcs"] = [tile((2, 2)) for _ in range(replaced.pop("count", 2))]
            nisa.dma_compute(**call | {k: v() for k, v in replaced.items()})

        return body

    def psum() -> Any:
        return nl.ndarray((2, 2), dtype=nl.float32, buffer=nl.psum)

    refused = [
        (case(reduce_op=lambda: nl.maximum), "reduce_op is nl.add"),
        (case(scales=lambda: [1.0, 2.0]), "scales are 1.0"),
        (case(scales=lambda: [1.0]), "scales are 1.0"),
        (case(count=17), "1 to 16 sources"),
        (case(srcs=lambda: [tile((2, 2)), tile((2, 3))]), "must agree"),
        (case(dst=psum), "dst must be in sbuf"),
        (case(srcs=lambda: tile((2, 2))), "a list of tensors"),
        (case(srcs=list), "a list of tensors"),
        (case(srcs=lambda: [tile((2, 2)), 3]), "srcs must be a tensor"),
        (case(unique_indices=lambda: False), "unique_indices is True"),
        (case(oob_mode=lambda: nisa.oob_mode.skip), "is for dynamic offsets"),
    ]
    for body, pattern in refused:
        with pytest.raises(IllegalProgram, match=pattern):
            in_kernel(body)
    with pytest.raises(NotModelled, match="one source"):
        in_kernel(case(count=1))
    with pytest.raises(UninitialisedRead, match=r"srcs\[1\] must have been written"):
        in_kernel(case(srcs=lambda: [tile((2, 2)), nl.ndarray((2, 2), dtype=nl.float32)]))


# -- gathered and scattered rows -------------------------------------------------------------------

TABLE = np.arange(40, dtype=np.float32).reshape(8, 5)
ROWS = st.lists(st.integers(0, 7), min_size=1, max_size=8)


def row_window(table: Any, rows: Any) -> Any:
    return table.ap([[5, rows.shape[0]], [1, 5]], 0, vector_offset=rows)


def scatter_add(table: Any, rows: Any, order: int = 0, **options: Any) -> None:
    target = row_window(table, loaded(rows))
    added = tile((rows.shape[0], 5), value=100)
    srcs = [target, added] if order == 0 else [added, target]
    nisa.dma_compute(dst=target, srcs=srcs, reduce_op=nl.add, **options)


def gather_add(table: Any, rows: Any, order: int = 0, **options: Any) -> np.ndarray:
    total = tile((rows.shape[0], 5), value=100)
    source = row_window(table, loaded(rows))
    srcs = [total, source] if order == 0 else [source, total]
    nisa.dma_compute(dst=total, srcs=srcs, reduce_op=nl.add, **options)
    return values(total)


@given(rows=ROWS, order=st.integers(0, 1))
def test_gather_add(rows: list[int], order: int) -> None:
    got = in_kernel(lambda t, r: gather_add(t, r, order), TABLE, column(rows))
    np.testing.assert_array_equal(got, TABLE[rows] + 100)


@given(
    rows=st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True), order=st.integers(0, 1)
)
def test_scatter_add(rows: list[int], order: int) -> None:
    table = TABLE.astype(BF16)
    in_kernel(lambda t, r: scatter_add(t, r, order), table, column(rows))
    expected = TABLE.copy()
    expected[rows] += 100
    np.testing.assert_array_equal(table, expected.astype(BF16))


def test_scattered_indices_are_unique() -> None:
    with pytest.raises(IllegalProgram, match="index 3 more than once"):
        in_kernel(scatter_add, TABLE.copy(), column([1, 3, 3]))


def test_rows_out_of_range() -> None:
    rows, table = column([1, -1, 8, 8]), TABLE.copy()
    for body in (scatter_add, gather_add):
        with pytest.raises(IllegalProgram, match="index -1"):
            in_kernel(body, table, rows)
    skip = {"oob_mode": nisa.oob_mode.skip}
    in_kernel(lambda t, r: scatter_add(t, r, **skip), table, rows)
    np.testing.assert_array_equal(table[1], TABLE[1] + 100)
    assert (np.delete(table, 1, 0) == np.delete(TABLE, 1, 0)).all()
    got = in_kernel(lambda t, r: gather_add(t, r, **skip), TABLE, rows)
    np.testing.assert_array_equal(got, [TABLE[1] + 100, *[[100] * 5] * 3])


def test_indirect_limits() -> None:
    def mixed(x: Any, rows: Any) -> Any:
        return tile((2, 5)), row_window(x, loaded(rows)), tile((2, 5))

    def not_dst(x: Any, rows: Any) -> None:
        total, source, other = mixed(x, rows)
        nisa.dma_compute(dst=total, srcs=[source, other], reduce_op=nl.add)

    def three(x: Any, rows: Any) -> None:
        total, source, other = mixed(x, rows)
        nisa.dma_compute(dst=total, srcs=[source, total, other], reduce_op=nl.add)

    def only_source(x: Any, rows: Any) -> None:
        _, target, other = mixed(x, rows)
        nisa.dma_compute(dst=target, srcs=[other, other], reduce_op=nl.add)

    def another_index(x: Any, rows: Any) -> None:
        _, target, other = mixed(x, rows)
        nisa.dma_compute(dst=target, srcs=[row_window(x, loaded(rows)), other], reduce_op=nl.add)

    def scalar(x: Any, rows: Any) -> None:
        one = x.ap([[5, 1], [1, 5]], 0, scalar_offset=loaded(rows[0:1]))
        total = tile((1, 5))
        nisa.dma_compute(dst=total, srcs=[total, one], reduce_op=nl.add)

    for body in (not_dst, three, only_source, another_index, scalar):
        with pytest.raises(IllegalProgram, match="two sources, one of them dst itself"):
            in_kernel(body, TABLE, column([1, 2]))


def test_the_older_spelling_in_dma_copy() -> None:
    """`dst_rmw_op` until SDK 2.28: dst = dst + src; with unique_indices=False in any order."""

    def plain(x: Any) -> np.ndarray:
        total = tile((8, 5), value=1)
        nisa.dma_copy(dst=total, src=x, dst_rmw_op=nl.add)
        return values(total)

    def scatter(x: Any, rows: Any, unique: bool) -> None:
        target = row_window(x, loaded(rows))
        added = tile((rows.shape[0], 5), value=100)
        nisa.dma_copy(dst=target, src=added, dst_rmw_op=nl.add, unique_indices=unique)

    np.testing.assert_array_equal(in_kernel(plain, TABLE), TABLE + 1)
    table = TABLE.copy()
    in_kernel(scatter, table, column([2, 2, 5]), False)
    expected = TABLE.copy()
    expected[2] += 200
    expected[5] += 100
    np.testing.assert_array_equal(table, expected)
    with pytest.raises(IllegalProgram, match="more than once"):
        in_kernel(scatter, table, column([2, 2]), True)


# -- what all DMAs obey ----------------------------------------------------------------------------

MODE, ENGINE = nisa.dge_mode, nisa.engine


@pytest.mark.parametrize(
    ("options", "platform", "pattern"),
    [
        ({"dge_mode": MODE.hwdge, "engine": ENGINE.sync}, "trn2", None),
        ({"dge_mode": MODE.hwdge, "engine": ENGINE.scalar}, "trn2", None),
        ({"engine": ENGINE.sync}, "trn2", None),
        ({"dge_mode": MODE.hwdge, "engine": ENGINE.vector}, "trn2", "engine is nisa.engine.sync"),
        ({"dge_mode": MODE.swdge, "engine": ENGINE.sync}, "trn2", "engine is nisa.engine.sync"),
        ({"dge_mode": MODE.none, "engine": ENGINE.scalar}, "trn2", "engine is nisa.engine.sync"),
        ({"dge_mode": MODE.hwdge}, "trn1", "exist from trn2 on"),
        ({"priority": 0}, "trn3", None),
        ({"priority": 3, "dge_mode": MODE.swdge}, "trn3", None),
        ({"priority": 3, "dge_mode": MODE.none}, "trn3", "needs generated descriptors"),
        ({"priority": 4}, "trn3", "priority is 0 to 3"),
        ({"priority": True}, "trn3", "priority is 0 to 3"),
        ({"priority": 0}, "trn2", "from trn3 on"),
        ({"unique_indices": 1}, "trn2", "is a bool"),
        ({"unique_indices": False}, "trn2", None),
    ],
)
def test_queues_and_priorities(
    options: Any, platform: str, pattern: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", platform)

    def body() -> None:
        nisa.dma_copy(dst=nl.ndarray((2, 2), dtype=nl.float32), src=tile((2, 2)), **options)

    if pattern is None:
        in_kernel(body)
    else:
        with pytest.raises(IllegalProgram, match=pattern):
            in_kernel(body)


def test_batches_of_indices() -> None:
    """Indices [128, M]: columns one after the other, rows in order."""

    def body(x: Any, index: Any) -> np.ndarray:
        out = nl.ndarray((256, 5), dtype=x.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out, src=x.ap([[5, 256], [1, 5]], 0, vector_offset=loaded(index)))
        return values(out)

    index = np.random.default_rng(0).integers(0, 8, (128, 2)).astype(np.int32)
    np.testing.assert_array_equal(in_kernel(body, TABLE, index), TABLE[index.T.flatten()])

    def scatter(x: Any, index: Any) -> None:
        source = nl.ndarray((256, 5), dtype=x.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=source, src=x.ap([[5, 256], [1, 5]], 0, vector_offset=loaded(index)))
        nisa.dma_copy(dst=x.ap([[5, 256], [1, 5]], 0, vector_offset=loaded(index)), src=source)

    def part(x: Any, index: Any) -> None:
        out = nl.ndarray((200, 5), dtype=x.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out, src=x.ap([[5, 200], [1, 5]], 0, vector_offset=loaded(index)))

    def convert(x: Any, index: Any) -> None:
        out = nl.ndarray((256, 5), dtype=nl.bfloat16, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out, src=x.ap([[5, 256], [1, 5]], 0, vector_offset=loaded(index)))

    for wrong in (scatter, part, convert):
        with pytest.raises(IllegalProgram, match=r"indices \[128, M\] gather"):
            in_kernel(wrong, TABLE, index)


def test_gathers_read_only_what_is_written() -> None:
    def body(x: Any, rows: Any) -> np.ndarray:
        scratch = nl.ndarray((8, 5), dtype=x.dtype, buffer=nl.private_hbm)
        nisa.dma_copy(dst=scratch[4:8], src=x[4:8])
        target = nl.ndarray((2, 5), dtype=x.dtype)
        nisa.dma_copy(dst=target, src=row_window(scratch, loaded(rows)))
        return values(target)

    np.testing.assert_array_equal(in_kernel(body, TABLE, column([6, 4])), TABLE[[6, 4]])
    with pytest.raises(UninitialisedRead, match="selects element 15"):
        in_kernel(body, TABLE, column([6, 3]))


def warnings_of(body: Callable[..., Any], *arguments: Any) -> list[str]:
    with nki_sim.record() as recording:
        in_kernel(body, *arguments)
    return recording.launches[0].warnings


def test_duplicate_scatter_indices_are_noted() -> None:
    def body(table: Any, rows: Any) -> None:
        nisa.dma_copy(dst=row_window(table, loaded(rows)), src=tile((rows.shape[0], 5)))

    found = warnings_of(body, TABLE.copy(), column([1, 4, 4]))
    assert any("scatters to row 4" in text and "undefined" in text for text in found)
    assert not any("scatters" in text for text in warnings_of(body, TABLE.copy(), column([1, 4])))


@pytest.mark.parametrize(
    ("shape", "index", "run"),
    [
        ((128, 128), np.s_[:, :], None),  # 512 bytes per partition
        ((128, 127), np.s_[:, :], 508),
        ((128, 256), np.s_[:, 0:100], 400),
        ((128, 256), np.s_[:, 0:256:2], 4),
        ((4, 2, 128), np.s_[:, 0, :], None),
        ((1, 8), np.s_[:, :], None),  # one run, however small
    ],
)
def test_short_descriptors_are_noted(shape: Any, index: Any, run: int | None) -> None:
    found = warnings_of(lambda x: loaded(x[index]), np.zeros(shape, np.float32))
    if run is None:
        assert found == []
    else:
        (text,) = found
        assert f"runs of {run} bytes" in text and "512" in text and "support.py" in text


def test_findings_are_counted() -> None:
    @nki.jit
    def kernel(x):
        for _ in range(3):
            loaded(x)

    with nki_sim.record() as recording:
        kernel(np.zeros((4, 4), np.float32))
    (text,) = recording.launches[0].warnings
    assert text.endswith("(3 times)")
