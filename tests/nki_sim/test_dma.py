"""DMA: conversion, broadcasting access patterns, gathering, scattering and their limits."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest

from nki_sim.errors import IllegalProgram, UninitialisedRead

from .support import in_kernel, loaded, tile, values

TABLE = np.arange(40, dtype=np.float32).reshape(8, 5)


def index(rows: list[int], dtype: Any = np.int32) -> np.ndarray:
    return np.array(rows, dtype).reshape(-1, 1)


def gather(table: Any, rows: Any, **options: Any) -> np.ndarray:
    target = tile((rows.shape[0], 5), value=7)
    source = table.ap([[5, rows.shape[0]], [1, 5]], offset=0, vector_offset=loaded(rows))
    nisa.dma_copy(dst=target, src=source, **options)
    return values(target)


def test_conversion_rounds_to_nearest_even() -> None:
    third = np.full((4, 4), 1 / 3, np.float32)
    got = in_kernel(lambda x: values(loaded(x, "bfloat16")), third)
    np.testing.assert_array_equal(got, third.astype(ml_dtypes.bfloat16))


def test_rows_are_broadcast_by_step_zero() -> None:
    def body(row: Any) -> np.ndarray:
        target = nl.ndarray((128, 5), dtype=nl.float32)
        nisa.dma_copy(dst=target, src=row.ap(pattern=[[0, 128], [1, 5]], offset=0))
        return values(target)

    np.testing.assert_array_equal(in_kernel(body, TABLE[3]), np.tile(TABLE[3], (128, 1)))


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_gather(dtype: Any) -> None:
    rows = [3, 0, 7, 3]
    np.testing.assert_array_equal(in_kernel(gather, TABLE, index(rows, dtype)), TABLE[rows])


def test_gather_out_of_range() -> None:
    rows = index([1, -1, 8])
    with pytest.raises(IllegalProgram, match="index -1"):
        in_kernel(gather, TABLE, rows)
    got = in_kernel(lambda t, r: gather(t, r, oob_mode=nisa.oob_mode.skip), TABLE, rows)
    np.testing.assert_array_equal(got, [TABLE[1], [7] * 5, [7] * 5])


def test_skipped_rows_stay_uninitialised() -> None:
    def body(table: Any, rows: Any) -> None:
        target = nl.ndarray((2, 5), dtype=nl.float32)
        source = table.ap([[5, 2], [1, 5]], 0, vector_offset=loaded(rows))
        nisa.dma_copy(dst=target, src=source, oob_mode=nisa.oob_mode.skip)
        nisa.tensor_copy(dst=tile((2, 5)), src=target)

    with pytest.raises(UninitialisedRead, match=r"\(1, 0\)"):
        in_kernel(body, TABLE, index([2, 9]))


def test_scatter_converts_and_leaves_other_rows() -> None:
    def body(table: Any, rows: Any) -> None:
        source = tile((2, 5), value=1)
        target = table.ap([[5, 2], [1, 5]], 0, vector_offset=loaded(rows))
        nisa.dma_copy(dst=target, src=source)

    table = TABLE.astype(ml_dtypes.bfloat16)
    in_kernel(body, table, index([6, 2]))
    expected = TABLE.copy()
    expected[[6, 2]] = 1
    np.testing.assert_array_equal(table.astype(np.float32), expected)


def test_scalar_offset_counts_a_dimension() -> None:
    def body(cube: Any, position: Any) -> np.ndarray:
        target = nl.ndarray((4, 5), dtype=nl.float32)
        block = cube.ap([[5, 4], [1, 5]], 0, scalar_offset=loaded(position), indirect_dim=0)
        nisa.dma_copy(dst=target, src=block)
        return values(target)

    cube = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    np.testing.assert_array_equal(in_kernel(body, cube, index([2])), cube[2])
    with pytest.raises(IllegalProgram, match="index 3"):
        in_kernel(body, cube, index([3]))


def test_scalar_offset_writes_a_cache_row() -> None:
    def body(cache: Any, position: Any) -> None:
        row = cache.ap([[5, 1], [1, 5]], 0, scalar_offset=loaded(position), indirect_dim=0)
        nisa.dma_copy(dst=row, src=tile((1, 5), value=9))

    cache = TABLE.copy()
    in_kernel(body, cache, index([4]))
    assert (cache[4] == 9).all() and (np.delete(cache, 4, 0) == np.delete(TABLE, 4, 0)).all()


def test_the_index_is_read_when_the_dma_runs() -> None:
    def body(table: Any) -> np.ndarray:
        position, target = tile((1, 1), "int32"), nl.ndarray((1, 5), dtype=nl.float32)
        row = table.ap([[5, 1], [1, 5]], 0, scalar_offset=position)
        nisa.memset(dst=position, value=6)
        nisa.dma_copy(dst=target, src=row)
        return values(target)

    np.testing.assert_array_equal(in_kernel(body, TABLE), TABLE[6:7])


def test_indirect_refusals() -> None:
    def on_chip(table: Any) -> None:
        loaded(table).ap([[5, 1], [1, 5]], 0, scalar_offset=tile((1, 1), "int32"))

    def compute(table: Any) -> None:
        row = table.ap([[5, 1], [1, 5]], 0, scalar_offset=tile((1, 1), "int32"))
        nisa.tensor_copy(dst=tile((1, 5)), src=row)

    for body, fragment in ((on_chip, "counts a free dimension"), (compute, "must be in sbuf")):
        with pytest.raises(IllegalProgram, match=fragment):
            in_kernel(body, TABLE)
    for wrong in (((1, 1), "float32"), ((2, 1), "int32")):
        with pytest.raises(IllegalProgram, match="int32 or uint32 tile"):
            in_kernel(lambda t, w=wrong: t.ap([[5, 1], [1, 5]], 0, scalar_offset=tile(*w)), TABLE)
    with pytest.raises(IllegalProgram, match="software descriptors"):
        in_kernel(lambda t, r: gather(t, r, dge_mode=nisa.dge_mode.hwdge), TABLE, index([1]))


def test_hardware_descriptors_do_not_convert() -> None:
    def body(x: Any) -> None:
        target = nl.ndarray((8, 5), dtype=nl.bfloat16)
        nisa.dma_copy(dst=target, src=x, dge_mode=nisa.dge_mode.hwdge)

    with pytest.raises(IllegalProgram, match="do not convert"):
        in_kernel(body, TABLE)
