"""Every conversion between two data types, for every bit pattern or many of them, on every path
that converts; access patterns against NumPy's as_strided; the order of PSUM accumulation.
"""

from __future__ import annotations

from typing import Any

import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nki_sim.dtypes import NUMBERS, TABLE, store, to_float32

from .support import in_kernel, loaded, values

PAIRS = [(a, b) for a in NUMBERS for b in NUMBERS if b != "bool"]
"""What a number that is neither 0 nor 1 becomes as a bool is not documented."""


def patterns(dtype: str) -> np.ndarray:
    """All bit patterns of a type as [64, N]; of 4-byte types, 2^16 spread over all exponents."""
    kind = TABLE[dtype].numpy
    if TABLE[dtype].kind == "bool":
        return np.tile(np.array([0, 1], np.uint8), (64, 2))
    if kind.itemsize == 4:
        rng = np.random.default_rng(0)
        bits = np.concatenate([
            np.arange(1 << 15, dtype=np.uint32) << 17,
            (np.arange(1 << 14, dtype=np.uint32) << 18) + 0x8000,  # halfway between two bf16
            rng.integers(0, 1 << 32, 1 << 14, np.uint32),
        ])  # fmt: skip
    else:
        bits = np.arange(1 << (8 * kind.itemsize)).astype(f"u{kind.itemsize}")
    return bits.view(kind).reshape(64, -1)


def reference(source: np.ndarray, target: str) -> np.ndarray:
    """The conversion in plain steps: to fp32, then one rounding."""
    with np.errstate(all="ignore"):
        wide = source.astype(np.float32)
        if TABLE[target].kind == "float":
            return wide.astype(TABLE[target].numpy)
        exact = wide.astype(np.float64)
    bounds = np.iinfo(TABLE[target].numpy)
    exact = np.where(np.isnan(exact), 0.0, np.rint(exact))
    return np.minimum(np.maximum(exact, bounds.min), bounds.max).astype(np.int64)


def same(got: np.ndarray, expected: np.ndarray) -> None:
    """Equal values; zeros of equal sign; NaN for NaN."""
    with np.errstate(all="ignore"):
        left, right = got.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_array_equal(left, right)
    ordered = ~np.isnan(left)
    np.testing.assert_array_equal(np.signbit(left)[ordered], np.signbit(right)[ordered])


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_stores_convert_as_ml_dtypes_does(source: str, target: str) -> None:
    data = patterns(source)
    got = np.empty(data.shape, TABLE[target].numpy)
    with np.errstate(all="ignore"):
        store(got, to_float32(data))
    same(got, reference(data, target))


@pytest.mark.parametrize(("source", "target"), [p for p in PAIRS if p[0] != p[1]])
def test_copies_on_chip_and_by_dma_convert_alike(source: str, target: str) -> None:
    data = patterns(source)[:, :256]

    def body(x: Any) -> tuple[np.ndarray, np.ndarray]:
        copied, moved = (nl.ndarray(data.shape, dtype=target, buffer=nl.sbuf) for _ in range(2))
        nisa.tensor_copy(dst=copied, src=loaded(x))
        nisa.dma_copy(dst=moved, src=x)
        return values(copied), values(moved)

    with np.errstate(all="ignore"):
        copied, moved = in_kernel(body, data)
    same(copied, reference(data, target))
    same(moved, copied)


@pytest.mark.parametrize("dtype", NUMBERS)
def test_equal_types_keep_every_bit(dtype: str) -> None:
    data = patterns(dtype)[:, :1024]

    def body(x: Any) -> np.ndarray:
        copied = nl.ndarray(data.shape, dtype=dtype, buffer=nl.sbuf)
        nisa.tensor_copy(dst=copied, src=loaded(x))
        return values(copied)

    width = f"u{data.itemsize}"
    np.testing.assert_array_equal(in_kernel(body, data).view(width), data.view(width))


@pytest.mark.parametrize("dtype", [n for n in NUMBERS if n not in ("float32", "bool")])
def test_instructions_round_the_fp32_result_once(dtype: str) -> None:
    """3.3 * x + 0.7 in fp32, stored: no rounding in between, one at the end."""
    rng = np.random.default_rng(1)
    data = np.concatenate([
        rng.standard_normal((64, 64)).astype(np.float32) * 100,
        np.array([[0.0, -0.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-40]] * 64, np.float32),
    ], axis=1)  # fmt: skip

    def body(x: Any) -> np.ndarray:
        result = nl.ndarray(data.shape, dtype=dtype, buffer=nl.sbuf)
        nisa.tensor_scalar(
            dst=result, data=loaded(x), op0=nl.multiply, operand0=3.3, op1=nl.add, operand1=0.7
        )
        return values(result)

    with np.errstate(all="ignore"):
        exact = data * np.float32(3.3) + np.float32(0.7)
        same(in_kernel(body, data), reference(exact, dtype))


# -- access patterns -------------------------------------------------------------------------------

SIZES = st.integers(1, 5)


@st.composite
def hbm_pattern(draw: Any) -> tuple[int, list[list[int]], int]:
    """Length of a vector, and a pattern of 1 to 4 pairs with an offset that stays inside it."""
    pairs = draw(st.lists(st.tuples(st.integers(0, 7), SIZES), min_size=1, max_size=4))
    reach = sum(step * (count - 1) for step, count in pairs)
    offset = draw(st.integers(0, 9))
    return offset + reach + 1 + draw(st.integers(0, 9)), [list(pair) for pair in pairs], offset


@settings(max_examples=150, deadline=None)
@given(hbm_pattern())
def test_patterns_read_what_as_strided_reads(given_pattern: Any) -> None:
    length, pattern, offset = given_pattern
    source = np.arange(length, dtype=np.float32)
    shape = tuple(count for _, count in pattern)
    strides = tuple(4 * step for step, _ in pattern)
    expected = np.lib.stride_tricks.as_strided(source[offset:], shape, strides)

    def body(x: Any) -> np.ndarray:
        flat = nl.ndarray((1, expected.size), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=flat, src=x.ap(pattern=pattern, offset=offset))
        return values(flat)

    np.testing.assert_array_equal(in_kernel(body, source).ravel(), expected.ravel())


@settings(max_examples=150, deadline=None)
@given(hbm_pattern(), st.integers(1, 6), st.integers(0, 3))
def test_patterns_on_chip_write_where_as_strided_writes(
    given_pattern: Any, rows: int, first: int
) -> None:
    """A tile [rows, F] written through a pattern whose elements are distinct."""
    width, pattern, offset = given_pattern
    reached = np.lib.stride_tricks.as_strided(
        np.arange(width)[offset:],
        tuple(count for _, count in pattern),
        tuple(8 * step for step, _ in pattern),
    )
    if len(np.unique(reached)) != reached.size:
        return  # repeated elements: the last one written wins, in an order nobody documents
    data = np.arange(rows * reached.size, dtype=np.float32).reshape(rows, -1) + 1
    expected = np.zeros((rows, width), np.float32)
    expected[:, reached.ravel()] = data

    def body(x: Any) -> np.ndarray:
        tile = nl.ndarray((rows, width), dtype=nl.float32, buffer=nl.sbuf)
        nisa.memset(dst=tile, value=0.0)
        window = tile.ap(pattern=[[width, rows], *pattern], offset=offset)
        nisa.tensor_copy(dst=window, src=loaded(x))
        return values(tile)

    np.testing.assert_array_equal(in_kernel(body, data), expected)


# -- accumulation ----------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_psum_adds_matmuls_in_the_order_they_are_issued(count: int, seed: int) -> None:
    """One fp32 addition per matmul, on the product of that matmul: (((p0 + p1) + p2) + ...)."""
    rng = np.random.default_rng(seed)
    left = (rng.standard_normal((count, 8, 4)) * 10.0 ** rng.integers(-6, 7)).astype(np.float32)
    right = rng.standard_normal((count, 8, 16)).astype(np.float32)
    expected = left[0].T @ right[0]
    for k in range(1, count):
        expected = expected + left[k].T @ right[k]

    def body(x: Any, y: Any) -> np.ndarray:
        total = nl.ndarray((4, 16), dtype=nl.float32, buffer=nl.psum)
        for k in range(count):
            nisa.nc_matmul(dst=total, stationary=loaded(x[k]), moving=loaded(y[k]))
        return values(total)

    np.testing.assert_array_equal(in_kernel(body, left, right), expected)


def test_accumulation_does_not_lose_small_terms_to_bf16() -> None:
    """4096 products of 1 and one of 2^-12: exact in fp32, lost in bf16."""
    ones = np.ones((128, 1), np.float32)
    small = np.zeros((128, 1), np.float32)
    small[0] = 2.0**-12

    def body(x: Any, y: Any) -> np.ndarray:
        total = nl.ndarray((1, 1), dtype=nl.float32, buffer=nl.psum)
        a, b = loaded(x, "bfloat16"), loaded(y, "bfloat16")
        for moving in [a] * 4 + [b]:
            nisa.nc_matmul(dst=total, stationary=a, moving=moving)
        return values(total)

    np.testing.assert_array_equal(in_kernel(body, ones, small), [[512 + 2.0**-12]])


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_nan_and_infinity_go_through_matmuls_and_reductions(value: float) -> None:
    data = np.ones((4, 8), np.float32)
    data[1, 2] = value

    def body(x: Any) -> tuple[np.ndarray, np.ndarray]:
        tile = loaded(x)
        product = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul(dst=product, stationary=tile, moving=tile)
        total = nl.ndarray((4, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_reduce(dst=total, op=nl.add, data=tile, axis=1)
        return values(product), values(total)

    with np.errstate(all="ignore"):
        product, total = in_kernel(body, data)
        np.testing.assert_array_equal(np.isfinite(product), np.isfinite(data.T @ data))
        np.testing.assert_array_equal(total[:, 0], data.sum(axis=1))
