"""Gathers, searches, random numbers, and the matmul's modes and types, against NumPy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nki_sim.errors import IllegalProgram, NotModelled, UninitialisedRead

from .support import in_kernel, loaded, tile, values

RNG = np.random.default_rng(13)
BF16 = ml_dtypes.bfloat16
FP8 = {
    "float8_e4m3": ml_dtypes.float8_e4m3,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
}


def platform(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", name)


# -- gathers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.int8, BF16])
def test_nc_n_gather(dtype: Any) -> None:
    data = RNG.integers(-100, 100, (6, 3, 8)).astype(dtype)
    index = RNG.integers(0, 24, (6, 5)).astype(np.uint32)

    def body(source: Any, where: Any) -> np.ndarray:
        dst = nl.ndarray((6, 5), dtype=source.dtype)
        nisa.nc_n_gather(dst=dst, data=loaded(source), indices=loaded(where))
        return values(dst)

    got = in_kernel(body, data, index)
    np.testing.assert_array_equal(got, np.take_along_axis(data.reshape(6, 24), index, axis=1))


def test_gathers_refuse_indices_out_of_range() -> None:
    def body(count: int) -> None:
        where = tile((16, 4), "uint32", value=count)
        nisa.nc_n_gather(tile((16, 4)), tile((16, 8)), where)

    in_kernel(body, 7)
    with pytest.raises(IllegalProgram, match=r"0\.\.7; .*received index 8"):
        in_kernel(body, 8)
    with pytest.raises(IllegalProgram, match="received index 9"):
        in_kernel(
            lambda: nisa.local_gather(
                tile((16, 32)), tile((16, 8)), tile((16, 1), "uint16", value=8), num_elem_per_idx=2
            )
        )


@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(1, 3),
    columns=st.integers(1, 4),
    each=st.sampled_from([1, 2, 4]),
    unused=st.integers(0, 15),
)
def test_local_gather(groups: int, columns: int, each: int, unused: int) -> None:
    data = RNG.standard_normal((16 * groups, 64)).astype(np.float32)
    index = RNG.integers(0, 64 - each, (16 * groups, columns)).astype(np.uint16)
    valid = 16 * columns - unused

    def body(source: Any, where: Any) -> np.ndarray:
        dst = nl.ndarray((16 * groups, valid * each), dtype=nl.float32)
        counts = {"num_valid_indices": valid} if unused else {}
        nisa.local_gather(dst, loaded(source), loaded(where), each, **counts)
        return values(dst)

    got = in_kernel(body, data, index)
    for group in range(groups):
        rows = slice(16 * group, 16 * group + 16)
        starts = index[rows].flatten(order="F")[:valid]
        for p in range(16):
            runs = [data[16 * group + p, s : s + each] for s in starts]
            np.testing.assert_array_equal(got[16 * group + p], np.concatenate(runs))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_elem_per_idx": 3}, "num_elem_per_idx is 1, 2, 4"),
        ({"num_valid_indices": 17}, "num_valid_indices counts at most"),
        ({"num_valid_indices": 0}, "num_valid_indices counts at most"),
        ({"num_valid_indices": 15}, "dst has num_valid_indices"),
        ({"num_elem_per_idx": 2}, "dst has num_valid_indices"),
    ],
)
def test_local_gather_refusals(arguments: dict[str, Any], message: str) -> None:
    def body() -> None:
        index = tile((16, 1), "uint16")
        nisa.local_gather(tile((16, 16)), tile((16, 8)), index, **arguments)

    with pytest.raises(IllegalProgram, match=message):
        in_kernel(body)


def test_gathers_work_on_whole_cores_and_move_bits() -> None:
    with pytest.raises(IllegalProgram, match="multiple of 16"):
        in_kernel(lambda: nisa.local_gather(tile((24, 16)), tile((24, 8)), tile((24, 1), "uint16")))
    with pytest.raises(IllegalProgram, match="dst has the type of data"):
        in_kernel(
            lambda: nisa.nc_n_gather(tile((4, 4), "bfloat16"), tile((4, 8)), tile((4, 4), "uint32"))
        )


# -- nonzero_with_count, topk, sequence_bounds -----------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0, 1), offset=st.integers(-10, 100), rows=st.sampled_from([1, 16, 17, 128]))
def test_nonzero_with_count(share: float, offset: int, rows: int) -> None:
    data = (RNG.random((rows, 12)) < share).astype(np.float32)

    def body(source: Any) -> np.ndarray:
        dst = tile((rows, 13), "int32", value=-77)
        nisa.nonzero_with_count(dst, loaded(source), index_offset=offset, padding_val=-5)
        return values(dst)

    got = in_kernel(body, data)
    for row in range(rows):
        found = np.flatnonzero(data[row])
        expected = [*(found + offset), *[-5] * (12 - len(found)), len(found)]
        np.testing.assert_array_equal(got[row], expected if row % 16 == 0 else [-77] * 13)


def test_nonzero_reads_and_writes_the_first_partition_of_each_core() -> None:
    def body(rows: int) -> None:
        src = nl.ndarray((32, 4), dtype=nl.float32)
        nisa.memset(dst=src[0:1, :], value=1)
        dst = nl.ndarray((32, 5), dtype=nl.int32)
        nisa.nonzero_with_count(dst=dst[0:rows, :], src=src[0:rows, :])
        nisa.tensor_copy(dst=tile((1, 5), "int32"), src=dst[0:1, :])
        dst[0:2, :].require_written("test", "dst")

    with pytest.raises(UninitialisedRead, match="test: dst"):
        in_kernel(body, 16)
    with pytest.raises(UninitialisedRead, match="nonzero_with_count: src"):
        in_kernel(body, 32)


def test_nonzero_needs_room_for_the_count_and_trn2(monkeypatch: pytest.MonkeyPatch) -> None:
    def body() -> None:
        nisa.nonzero_with_count(tile((4, 8), "int32"), tile((4, 8)))

    with pytest.raises(IllegalProgram, match="one element per partition more"):
        in_kernel(body)
    platform(monkeypatch, "trn1")
    with pytest.raises(IllegalProgram, match="exists from trn2 on; received trn1"):
        in_kernel(body)


def snake(rows: np.ndarray, columns: int) -> np.ndarray:
    """Rows [groups, n] laid out over 16 partitions each."""
    padded = np.zeros((len(rows), 16 * columns), rows.dtype)
    padded[:, : rows.shape[1]] = rows
    return padded.reshape(-1, columns, 16).transpose(0, 2, 1).reshape(-1, columns)


@settings(max_examples=30, deadline=None)
@given(groups=st.integers(1, 3), n=st.integers(8, 60), k=st.integers(1, 40))
def test_topk(groups: int, n: int, k: int) -> None:
    k = min(k, n)
    rows = RNG.integers(-20, 20, (groups, n)).astype(BF16)

    def body(source: Any) -> tuple[np.ndarray, np.ndarray]:
        best = nl.ndarray((16 * groups, k), dtype=nl.bfloat16)
        where = nl.ndarray((16 * groups, k), dtype=nl.uint32)
        nisa.topk(val_dst=best, idx_dst=where, src=loaded(source), n=n)
        columns = -(-k // 16)
        best[:, 0:columns].require_written("test", "written")
        if columns < k:
            assert not best.written_map()[:, columns:].any()
        return values(best[:, 0:columns]), values(where[:, 0:columns])

    best, where = in_kernel(body, snake(rows, -(-n // 16)))
    unwound = [
        part.reshape(groups, 16, -1).transpose(0, 2, 1).reshape(groups, -1)
        for part in (best, where)
    ]
    for group in range(groups):
        got, index = unwound[0][group], unwound[1][group]
        np.testing.assert_array_equal(got[:k], np.sort(rows[group])[-k:])
        np.testing.assert_array_equal(rows[group][index[:k]], got[:k])
        assert len(set(index[:k].tolist())) == k
        assert np.isnan(got[k:].astype(np.float32)).all() and (index[k:] == 2**32 - 1).all()


@pytest.mark.parametrize("n", [7, 129, 3.0])
def test_topk_refusals(n: Any) -> None:
    def body() -> None:
        best, where = tile((16, 4), "bfloat16"), tile((16, 4), "uint32")
        nisa.topk(best, where, tile((16, 8), "bfloat16"), n)

    with pytest.raises(IllegalProgram, match="8 <= n < 65536"):
        in_kernel(body)


@settings(max_examples=30, deadline=None)
@given(ids=st.lists(st.integers(0, 2), min_size=1, max_size=20))
def test_sequence_bounds(ids: list[int]) -> None:
    n = len(ids)

    def body(source: Any) -> np.ndarray:
        dst = nl.ndarray((1, 2, n), dtype=nl.int32)
        nisa.sequence_bounds(dst=dst, segment_ids=loaded(source))
        return values(dst)

    got = in_kernel(body, np.array([ids], np.int32))
    for i, one in enumerate(ids):
        start, end = i, i + 1
        while start and ids[start - 1] == one:
            start -= 1
        while end < n and ids[end] == one:
            end += 1
        assert tuple(got[0, :, i]) == ((start, end) if one else (n, -1))


# -- random numbers --------------------------------------------------------------------------------


def seeded(seed: int, draws: int = 1, engine: Any = None) -> list[np.ndarray]:
    def body(source: Any) -> list[np.ndarray]:
        nisa.set_rng_seed(loaded(source))
        results = []
        for _ in range(draws):
            bits = nl.ndarray((8, 50), dtype=nl.uint32)
            nisa.rng(dst=bits, **({} if engine is None else {"engine": engine}))
            results.append(values(bits))
        return results

    return in_kernel(body, np.array([[seed]], np.uint32))


def test_equal_seeds_give_equal_numbers() -> None:
    first, second = seeded(5, 2)
    np.testing.assert_array_equal(first, seeded(5)[0])
    assert (first != second).mean() > 0.99 and (first != seeded(6)[0]).mean() > 0.99
    assert len(np.unique(first)) > 390  # partitions and elements differ
    other = seeded(5, engine=nisa.engine.gpsimd)[0]
    np.testing.assert_array_equal(other, seeded(6, engine=nisa.engine.gpsimd)[0])


def test_gpsimd_draws_xorwow_from_the_state_it_is_given() -> None:
    state = RNG.integers(0, 2**32, (4, 6), dtype=np.uint32)

    def body(source: Any) -> tuple[np.ndarray, np.ndarray]:
        nisa.rand_set_state(loaded(source))
        bits, after = nl.ndarray((4, 9), dtype=nl.uint32), nl.ndarray((4, 6), dtype=nl.uint32)
        nisa.rng(dst=bits, engine=nisa.engine.gpsimd)
        nisa.rand_get_state(after)
        return values(bits), values(after)

    bits, after = in_kernel(body, state)
    for lane in range(4):
        x = [int(word) for word in state[lane]]
        for k in range(9):
            t = x[0] ^ (x[0] >> 2)
            v = (x[4] ^ (x[4] << 4)) ^ (t ^ (t << 1))
            x = [*x[1:5], v & 0xFFFFFFFF, (x[5] + 362437) & 0xFFFFFFFF]
            assert bits[lane, k] == (x[4] + x[5]) & 0xFFFFFFFF
        np.testing.assert_array_equal(after[lane], x)


def test_narrow_integers_take_the_lowest_bits() -> None:
    def body(dtype: str) -> np.ndarray:
        bits = nl.ndarray((4, 10), dtype=dtype)
        nisa.rng(dst=bits)
        return values(bits)

    wide = in_kernel(body, "uint32")
    for dtype in ("uint8", "int8", "uint16", "int16", "int32"):
        np.testing.assert_array_equal(in_kernel(body, dtype), wide.astype(dtype))


def test_states_have_the_size_of_their_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def vector_state() -> None:
        nisa.rand_set_state(tile((4, 24), "uint32", value=3))
        nisa.rand_get_state(tile((4, 24), "uint32"), engine=nisa.engine.vector)

    with pytest.raises(IllegalProgram, match="on the vector engine exists from trn3 on"):
        in_kernel(vector_state)
    with pytest.raises(IllegalProgram, match=r"must be in 6\.\.6 on the gpsimd engine"):
        in_kernel(lambda: nisa.rand_get_state(tile((4, 5), "uint32")))
    platform(monkeypatch, "trn3")
    in_kernel(vector_state)


def test_rand2_is_uniform_in_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    platform(monkeypatch, "trn3")

    def body() -> np.ndarray:
        dst = nl.ndarray((128, 200), dtype=nl.float32)
        nisa.rand2(dst=dst, min=-1.0, max=3.0)
        return values(dst)

    got = in_kernel(body)
    assert got.min() >= -1 and got.max() <= 3
    counts, _ = np.histogram(got, bins=8, range=(-1, 3))
    np.testing.assert_allclose(counts, got.size / 8, rtol=0.1)
    with pytest.raises(IllegalProgram, match="min < max"):
        in_kernel(lambda: nisa.rand2(dst=tile((4, 4)), min=1.0, max=1.0))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int16"])
def test_dropout(dtype: str) -> None:
    def body(prob: float, column: bool) -> np.ndarray:
        data = tile((128, 100), dtype, value=7)
        where = tile((128, 1)) if column else prob
        if column:
            nisa.memset(dst=where, value=prob)
        nisa.dropout(dst=data, data=data, prob=where)
        return values(data).astype(np.float32)

    for column in (False, True):
        assert (in_kernel(body, 0.0, column) == 7).all()
        assert (in_kernel(body, 1.0, column) == 0).all()
        some = in_kernel(body, 0.3, column)
        assert set(np.unique(some)) == {0.0, 7.0} and abs((some == 0).mean() - 0.3) < 0.02
    with pytest.raises(IllegalProgram, match=r"prob lies in 0\.\.1"):
        in_kernel(body, 1.5, False)


# -- nc_matmul: double_row, tfloat32, trn3 ---------------------------------------------------------


def product(stationary: np.ndarray, moving: np.ndarray, **arguments: Any) -> np.ndarray:
    def body(left: Any, right: Any) -> np.ndarray:
        rows, columns = left.shape[-1], right.shape[-1]
        dst = nl.ndarray((rows, columns), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul(dst=dst, stationary=loaded(left), moving=loaded(right), **arguments)
        return values(dst)

    return in_kernel(body, stationary, moving)


@pytest.mark.parametrize("mode", ["double_row", nisa.matmul_perf_mode.double_row])
@pytest.mark.parametrize("kinds", [("float8_e4m3", "float8_e4m3"), ("float8_e5m2", "float8_e4m3")])
def test_double_row(mode: Any, kinds: tuple[str, str]) -> None:
    left = RNG.integers(-8, 8, (32, 2, 6)).astype(FP8[kinds[0]])
    right = RNG.integers(-8, 8, (32, 2, 20)).astype(FP8[kinds[1]])
    got = product(left, right, perf_mode=mode)
    flat = [part.astype(np.float32).reshape(64, -1) for part in (left, right)]
    np.testing.assert_array_equal(got, flat[0].T @ flat[1])


def test_double_row_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    fp8 = np.ones((32, 2, 6), FP8["float8_e4m3"])
    with pytest.raises(IllegalProgram, match="double_row takes fp8"):
        product(fp8.astype(BF16), fp8.astype(BF16), perf_mode="double_row")
    with pytest.raises(IllegalProgram, match="double_row takes fp8"):
        product(fp8[:, 0], fp8[:, 0], perf_mode="double_row")
    with pytest.raises(IllegalProgram, match="without column tiling"):
        product(fp8, fp8, perf_mode="double_row", tile_size=(32, 32), tile_position=(0, 0))
    with pytest.raises(IllegalProgram, match="perf_mode is one of"):
        product(fp8, fp8, perf_mode="triple_row")
    platform(monkeypatch, "trn3")
    with pytest.raises(IllegalProgram, match="not mixed"):
        product(fp8, fp8.astype(FP8["float8_e4m3fn"]), perf_mode="double_row")
    ocp = fp8.astype(FP8["float8_e4m3fn"])
    product(ocp, ocp, perf_mode="double_row")
    platform(monkeypatch, "trn1")
    with pytest.raises(IllegalProgram, match="perf_mode double_row exists from trn2 on"):
        product(fp8, fp8, perf_mode="double_row")


def test_double_row_counts_its_multiply_accumulates() -> None:
    import nki_sim

    fp8 = np.ones((32, 2, 6), FP8["float8_e4m3"])
    with nki_sim.record() as recording:
        product(fp8, fp8, perf_mode="double_row")
    assert recording.launches[0].macs == 64 * 6 * 6


@settings(max_examples=50, deadline=None)
@given(value=st.floats(width=32, allow_nan=False))
def test_tfloat32_is_rounded_where_it_is_multiplied(value: float) -> None:
    def body(source: Any) -> tuple[np.ndarray, np.ndarray]:
        dst = nl.ndarray((1, 1), dtype=nl.float32, buffer=nl.psum)
        operand, one = loaded(source, "tfloat32"), tile((1, 1), "tfloat32", value=1)
        nisa.nc_matmul(dst=dst, stationary=operand, moving=one)
        return values(operand), values(dst)

    kept, got = in_kernel(body, np.array([[value]], np.float32))
    assert kept[0, 0] == np.float32(value)
    exact = np.float32(value).astype(np.float64)
    mantissa, exponent = np.frexp(exact)
    if np.isinf(exact) or abs(exact) < 2.0**-120:
        return
    expected = np.ldexp(np.rint(np.ldexp(mantissa, 11)), exponent - 11)
    assert got[0, 0] == np.float32(expected)


def test_tfloat32_pairs_with_fp32_only() -> None:
    def body(dtype: str) -> None:
        dst = nl.ndarray((4, 4), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul(dst=dst, stationary=tile((4, 4), "tfloat32"), moving=tile((4, 4), dtype))

    in_kernel(body, "float32")
    with pytest.raises(IllegalProgram, match="fp32 multiplies fp32 only"):
        in_kernel(body, "bfloat16")


def test_moving_operands_are_longer_on_trn3(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = np.ones((4, 4), BF16), np.ones((4, 1024), BF16)
    with pytest.raises(IllegalProgram, match=r"1\.\.512"):
        product(left, right)
    platform(monkeypatch, "trn3")
    assert (product(left, right) == 4).all()


# -- transposes of one-byte types ------------------------------------------------------------------


@pytest.mark.parametrize("how", ["nc_transpose", "nc_matmul"])
@pytest.mark.parametrize("wide", [False, True])
def test_one_byte_transposes_fill_two_bytes(how: str, wide: bool) -> None:
    data = RNG.integers(0, 256, (40, 24)).astype(np.uint8).view(FP8["float8_e4m3"])

    def body(source: Any) -> tuple[np.ndarray, np.ndarray]:
        if wide:
            dst = base = nl.ndarray((24, 40), dtype=nl.bfloat16, buffer=nl.psum)
        else:
            base = nl.ndarray((24, 80), dtype=nl.float8_e4m3, buffer=nl.psum)
            dst = base.ap([[80, 24], [2, 40]], offset=0)
        if how == "nc_transpose":
            nisa.nc_transpose(dst=dst, data=loaded(source))
        else:
            identity = nl.shared_identity_matrix(40, dtype=nl.float8_e4m3)
            nisa.nc_matmul(dst=dst, stationary=loaded(source), moving=identity, is_transpose=True)
        base.require_written("test", "both bytes of every element")
        return values(base), values(dst)

    both = in_kernel(body, data)[0].view(np.uint8).reshape(24, 40, 2)
    np.testing.assert_array_equal(both[:, :, 0], data.view(np.uint8).T)
    assert not both[:, :, 1].any()


def test_one_byte_transposes_refuse_a_dense_destination() -> None:
    def body(psum: Any) -> None:
        dst = nl.ndarray((40, 40), dtype=nl.float8_e4m3, buffer=psum)
        nisa.nc_transpose(dst=dst, data=tile((40, 40), "float8_e4m3"))

    with pytest.raises(IllegalProgram, match="written as two bytes"):
        in_kernel(body, nl.psum)


def test_the_vector_engine_transposes_one_byte_types_densely() -> None:
    data = RNG.integers(-100, 100, (8, 16)).astype(np.int8)

    def body(source: Any) -> np.ndarray:
        dst = nl.ndarray((16, 8), dtype=nl.int8)
        nisa.nc_transpose(dst=dst, data=loaded(source))
        return values(dst)

    np.testing.assert_array_equal(in_kernel(body, data), data.T)


def test_dynamic_copies_of_sdk_2_27() -> None:
    data = RNG.standard_normal((4, 8)).astype(np.float32)

    def body(source: Any) -> np.ndarray:
        where, part, whole = tile((1, 1), "int32", value=5), tile((4, 3)), tile((4, 8))
        offset = {"offset": 0, "scalar_offset": where, "indirect_dim": 1}
        pattern = [[8, 4], [1, 3]]
        nisa.tensor_copy_dynamic_src(dst=part, src=loaded(source).ap(pattern, **offset))
        nisa.tensor_copy_dynamic_dst(dst=whole.ap(pattern, **offset), src=part)
        return values(whole)

    expected = np.where(np.arange(8) >= 5, data, np.float32(0))
    np.testing.assert_array_equal(in_kernel(body, data), expected)


def test_descending_topk_is_not_modelled() -> None:
    with pytest.raises(NotModelled, match="sorted=True"):
        in_kernel(lambda: nisa.topk(None, None, None, 8, sorted=True))
