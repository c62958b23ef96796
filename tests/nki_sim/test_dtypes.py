"""Conversions against ml_dtypes and against exact integers."""

from __future__ import annotations

import ml_dtypes
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nki_sim.dtypes import FLOATS, INTEGERS, TABLE
from nki_sim.errors import IllegalProgram, NotModelled

from .support import in_kernel, loaded, tile, values

ANY_FLOAT = arrays(np.float32, (2, 8), elements=st.floats(width=32, allow_nan=True))


def converted(array: np.ndarray, dtype: str) -> np.ndarray:
    """What tensor_copy makes of `array`."""

    def body(x: object) -> np.ndarray:
        result = nl.ndarray(array.shape, dtype=dtype, buffer=nl.sbuf)
        nisa.tensor_copy(dst=result, src=loaded(x))
        return values(result)

    return in_kernel(body, array)


@pytest.mark.parametrize("dtype", FLOATS)
@settings(max_examples=50, deadline=None)
@given(ANY_FLOAT)
def test_float_writes_round_once_to_nearest_even(dtype: str, array: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        expected = array.astype(TABLE[dtype].numpy)
    got = converted(array, dtype)
    np.testing.assert_array_equal(got.astype(np.float32), expected.astype(np.float32))


@pytest.mark.parametrize("dtype", INTEGERS)
@settings(max_examples=50, deadline=None)
@given(array=ANY_FLOAT)
def test_integer_writes_round_to_even_and_saturate(dtype: str, array: np.ndarray) -> None:
    bounds = np.iinfo(dtype)
    expected = [
        0
        if np.isnan(x)
        else min(max(round(float(x)), bounds.min), bounds.max)
        if np.isfinite(x)
        else (bounds.max if x > 0 else bounds.min)
        for x in array.ravel()
    ]
    np.testing.assert_array_equal(converted(array, dtype).ravel(), np.array(expected, dtype))


def test_ties_go_to_even() -> None:
    halves = np.array([[0.5, 1.5, 2.5, -0.5, -1.5]], np.float32)
    np.testing.assert_array_equal(converted(halves, "int32"), [[0, 2, 2, 0, -2]])


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e5m2", "int32", "uint8"])
def test_equal_types_are_copied_bit_for_bit(dtype: str) -> None:
    bits = np.random.default_rng(0).integers(0, 256, (3, 64), np.uint8)
    array = bits.view(TABLE[dtype].numpy)
    np.testing.assert_array_equal(converted(array, dtype).view(np.uint8), bits)


def test_no_rounding_between_fused_operators() -> None:
    """(1 + 2^-12) - 1 survives only if the sum was kept in fp32."""

    def body() -> np.ndarray:
        data = tile((1, 4), "bfloat16", value=1)
        result = nl.ndarray((1, 4), dtype=nl.bfloat16, buffer=nl.sbuf)
        nisa.tensor_scalar(
            dst=result, data=data, op0=nl.add, operand0=2.0**-12, op1=nl.subtract, operand1=1.0
        )
        return values(result)

    np.testing.assert_array_equal(in_kernel(body).astype(np.float32), np.full((1, 4), 2.0**-12))


def test_integers_are_exact_on_gpsimd_and_fp32_on_vector() -> None:
    big = np.array([[2**24 + 1, -(2**30) - 1]], np.int32)

    def body(x: object, engine: object) -> np.ndarray:
        data = loaded(x)
        zero = tile((1, 2), "int32")
        result = nl.ndarray((1, 2), dtype=nl.int32, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=result, data1=data, data2=zero, op=nl.add, engine=engine)
        return values(result)

    np.testing.assert_array_equal(in_kernel(body, big, nisa.engine.unknown), big)
    through_fp32 = big.astype(np.float32).astype(np.int32)
    np.testing.assert_array_equal(in_kernel(body, big, nisa.engine.vector), through_fp32)
    assert (through_fp32 != big).any()


def test_right_shift_is_logical() -> None:
    def body(x: object) -> np.ndarray:
        data = loaded(x)
        nisa.tensor_scalar(dst=data, data=data, op0=nl.right_shift, operand0=28)
        return values(data)

    array = np.array([[-1, 1 << 30]], np.int32)
    np.testing.assert_array_equal(in_kernel(body, array), [[15, 4]])


def test_comparisons_give_one_and_zero_in_the_result_type() -> None:
    def body() -> np.ndarray:
        result = nl.ndarray((2, 3), dtype=nl.bfloat16, buffer=nl.sbuf)
        nisa.tensor_scalar(dst=result, data=tile((2, 3)), op0=nl.less, operand0=1.0)
        return values(result)

    got = in_kernel(body)
    assert got.dtype == ml_dtypes.bfloat16 and (got == 1).all()


def test_unknown_types_are_refused_by_name() -> None:
    for dtype in (np.float32, "float64", None):
        with pytest.raises(IllegalProgram, match="dtype must be one of"):
            in_kernel(lambda dtype=dtype: nl.ndarray((2, 2), dtype=dtype))


def test_imprecise_mode_keeps_low_precision_as_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NKI_PRECISE_FP", "0")
    array = np.array([[1.0009765625, 3.0]], np.float32)
    np.testing.assert_array_equal(converted(array, "bfloat16"), array)
    with pytest.raises(NotModelled, match="NKI_PRECISE_FP"):
        in_kernel(lambda: tile((2, 2), "bfloat16").view(nl.uint16))
