"""What each instruction computes, against NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest

from nki_sim.errors import IllegalProgram, UninitialisedRead
from nki_sim.operators import ACTIVATIONS

from .support import in_kernel, loaded, tile, values

RNG = np.random.default_rng(7)
A = RNG.standard_normal((6, 10)).astype(np.float32)
B = RNG.standard_normal((6, 10)).astype(np.float32)
COLUMN = RNG.standard_normal((6, 1)).astype(np.float32)
ALU: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}


def result(call: Callable[..., None], shape: tuple[int, ...], *arrays: np.ndarray) -> np.ndarray:
    """What ``call(dst, *tiles)`` leaves in a float32 destination of `shape`."""

    def body(*tensors: Any) -> np.ndarray:
        dst = nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)
        call(dst, *(loaded(t) for t in tensors))
        dst.require_written("test", "dst")
        return values(dst)

    return in_kernel(body, *arrays)


@pytest.mark.parametrize("op", ALU)
def test_binary_operators(op: str) -> None:
    got = result(lambda d, a, b: nisa.tensor_tensor(d, a, b, getattr(nl, op)), A.shape, A, B)
    np.testing.assert_array_equal(got, ALU[op](A, B).astype(np.float32))


@pytest.mark.parametrize("op", ["bitwise_and", "bitwise_or", "bitwise_xor"])
def test_bitwise_operators(op: str) -> None:
    a, b = RNG.integers(-(2**31), 2**31, (2, 3, 8)).astype(np.int32)

    def body(x: Any, y: Any) -> np.ndarray:
        dst = nl.ndarray((3, 8), dtype=nl.int32)
        nisa.tensor_tensor(dst=dst, data1=loaded(x), data2=loaded(y), op=getattr(nl, op))
        return values(dst)

    np.testing.assert_array_equal(in_kernel(body, a, b), getattr(np, op)(a, b))


def test_power_runs_on_gpsimd() -> None:
    got = result(lambda d, a: nisa.tensor_scalar(d, a, nl.power, 2.0), A.shape, A)
    np.testing.assert_allclose(got, A**2, rtol=1e-6)
    with pytest.raises(IllegalProgram, match="power and rsqrt run on GpSimd"):
        result(
            lambda d, a: nisa.tensor_scalar(d, a, nl.power, 2.0, engine=nisa.engine.vector),
            A.shape,
            A,
        )


@pytest.mark.parametrize("reverse", [False, True])
def test_tensor_scalar_with_columns_and_reversal(reverse: bool) -> None:
    def call(dst: Any, a: Any, column: Any) -> None:
        nisa.tensor_scalar(
            dst=dst, data=a, op0=nl.subtract, operand0=column, reverse0=reverse,
            op1=nl.multiply, operand1=3.0,
        )  # fmt: skip

    first = COLUMN - A if reverse else A - COLUMN
    np.testing.assert_array_equal(result(call, A.shape, A, COLUMN), first * np.float32(3))


def test_unary_operators_ignore_their_operand() -> None:
    got = result(lambda d, a: nisa.tensor_scalar(d, a, nl.abs, 0.0), A.shape, A)
    np.testing.assert_array_equal(got, np.abs(A))
    got = result(lambda d, a: nisa.tensor_scalar(d, a, nl.abs, None), A.shape, A)
    np.testing.assert_array_equal(got, np.abs(A))


def test_scalar_tensor_tensor() -> None:
    def call(dst: Any, a: Any, column: Any, b: Any) -> None:
        nisa.scalar_tensor_tensor(
            dst=dst, data=a, op0=nl.multiply, operand0=column, op1=nl.add, operand1=b
        )

    np.testing.assert_array_equal(result(call, A.shape, A, COLUMN, B), A * COLUMN + B)


def test_shapes_may_differ_when_counts_agree() -> None:
    def call(dst: Any, a: Any, b: Any) -> None:
        nisa.tensor_tensor(dst=dst, data1=a.reshape((6, 5, 2)), data2=b, op=nl.add)

    np.testing.assert_array_equal(result(call, (6, 2, 5), A, B), (A + B).reshape(6, 2, 5))


@pytest.mark.parametrize(
    ("axis", "kept"), [(2, (6, 2)), ([2], (6, 2)), ((1, 2), (6, 1)), ([4], (6, 2))]
)
def test_tensor_reduce_axes(axis: Any, kept: tuple[int, int]) -> None:
    cube = A.reshape(6, 2, 5)
    got = result(lambda d, a: nisa.tensor_reduce(d, nl.maximum, a, axis), kept, cube)
    np.testing.assert_array_equal(got, cube.reshape(*kept, -1).max(axis=-1))


def test_tensor_reduce_negates() -> None:
    got = result(lambda d, a: nisa.tensor_reduce(d, nl.add, a, 1, negate=True), (6, 1), A)
    np.testing.assert_allclose(got, -A.sum(axis=1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("axis", [0, (0, 1), (1,), -1, "1", ()])
def test_tensor_reduce_refuses_other_axes(axis: Any) -> None:
    with pytest.raises(IllegalProgram, match="axis"):
        result(lambda d, a: nisa.tensor_reduce(d, nl.add, a, axis), (6, 1), A.reshape(6, 2, 5))


def test_tensor_reduce_checks_the_result_size() -> None:
    with pytest.raises(IllegalProgram, match="one element per kept element"):
        result(lambda d, a: nisa.tensor_reduce(d, nl.add, a, 1), (6, 2), A)


SIGMOID = 1 / (1 + np.exp(-A.astype(np.float64)))
ERF = np.vectorize(math.erf)(A.astype(np.float64) / math.sqrt(2))
EXPECTED = {
    "copy": A,
    "square": A.astype(np.float64) ** 2,
    "sigmoid": SIGMOID,
    "silu": A * SIGMOID,
    "relu": np.maximum(A, 0),
    "exp": np.exp(A.astype(np.float64)),
    "tanh": np.tanh(A.astype(np.float64)),
    "gelu": 0.5 * A * (1 + ERF),
    "gelu_apprx_sigmoid": A / (1 + np.exp(-1.702 * A.astype(np.float64))),
    "softplus": np.log1p(np.exp(A.astype(np.float64))),
    "sin": np.sin(A.astype(np.float64)),
    "sign": np.sign(A),
    "abs": np.abs(A),
    "reciprocal": 1 / A.astype(np.float64),
    "arctan": np.arctan(A.astype(np.float64)),
}


@pytest.mark.parametrize("op", EXPECTED)
def test_activation_functions(op: str) -> None:
    got = result(lambda d, a: nisa.activation(d, getattr(nl, op), a), A.shape, A)
    np.testing.assert_allclose(got, EXPECTED[op], rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("pair", [("gelu", "gelu_dx"), ("silu", "silu_dx"), ("erf", "erf_dx"),
                                  ("gelu_apprx_sigmoid", "gelu_apprx_sigmoid_dx")])  # fmt: skip
def test_derivatives(pair: tuple[str, str]) -> None:
    function, derivative = (next(o.activation for o in ACTIVATIONS if o.name == n) for n in pair)
    assert function is not None and derivative is not None
    x, step = np.linspace(-3, 3, 41, dtype=np.float32), np.float32(1e-2)
    slope = (function(x + step) - function(x - step)) / (2 * step)
    np.testing.assert_allclose(derivative(x), slope, atol=2e-3)


def test_sine_extrapolates_its_last_cubic() -> None:
    got = result(
        lambda d, a: nisa.activation(d, nl.sin, a), (1, 2), np.array([[9.0, -9.0]], np.float32)
    )
    np.testing.assert_allclose(got, [[27.65, -27.65]], atol=0.01)


def test_activation_scale_bias_and_sum() -> None:
    def call(dst: Any, a: Any, column: Any) -> None:
        scratch = nl.ndarray(A.shape, dtype=nl.bfloat16)
        nisa.activation(
            dst=scratch, op=nl.exp, data=a, bias=column, scale=0.5,
            reduce_op=nl.add, reduce_res=dst, reduce_cmd=nisa.reduce_cmd.reset_reduce,
        )  # fmt: skip

    expected = np.exp(A * 0.5 + COLUMN).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(result(call, (6, 1), A, COLUMN), expected, rtol=1e-6)


def test_activation_sums_accumulate_over_instructions() -> None:
    def call(dst: Any, a: Any) -> None:
        scratch = nl.ndarray((6, 5), dtype=nl.float32)
        for column, command in ((0, "reset_reduce"), (5, "reduce")):
            nisa.activation(
                dst=scratch, op=nl.copy, data=a[:, column : column + 5],
                reduce_op=nl.add, reduce_cmd=getattr(nisa.reduce_cmd, command),
            )  # fmt: skip
        nisa.activation(dst=scratch, op=nl.copy, data=a[:, 0:5], reduce_res=dst)

    np.testing.assert_allclose(result(call, (6, 1), A), A.sum(axis=1, keepdims=True), rtol=1e-5)


def test_registers_must_be_reset_first() -> None:
    def call(dst: Any, a: Any) -> None:
        nisa.activation(
            dst=a, op=nl.copy, data=a, reduce_op=nl.add, reduce_cmd=nisa.reduce_cmd.reduce
        )

    with pytest.raises(UninitialisedRead, match="reset"):
        result(call, (6, 1), A)


def test_max8_and_find_index8() -> None:
    data = RNG.permutation(np.arange(6 * 40, dtype=np.float32)).reshape(6, 40)

    def body(x: Any) -> tuple[np.ndarray, np.ndarray]:
        source = loaded(x)
        best, places = nl.ndarray((6, 8), dtype=nl.float32), nl.ndarray((6, 8), dtype=nl.uint32)
        nisa.max8(dst=best, src=source)
        nisa.nc_find_index8(dst=places, data=source, vals=best)
        return values(best), values(places)

    best, places = in_kernel(body, data)
    order = np.argsort(-data, axis=1)[:, :8]
    np.testing.assert_array_equal(places, order)
    np.testing.assert_array_equal(best, np.take_along_axis(data, order, axis=1))


ROW = np.array([[3, 8, 1, 8, 5, 8, 0, 2, 7]], np.float32)


def test_ties_take_successive_positions_and_missing_values_all_ones() -> None:
    vals = np.array([[8, 8, 8, 8, 7, 6, 5, 3]], np.float32)

    def body(x: Any, v: Any, dtype: str) -> np.ndarray:
        places = nl.ndarray((1, 8), dtype=dtype)
        nisa.nc_find_index8(dst=places, data=loaded(x), vals=loaded(v))
        return values(places)

    for dtype, missing in (("uint32", 2**32 - 1), ("uint16", 2**16 - 1)):
        expected = [[1, 3, 5, missing, 8, missing, 4, 0]]
        np.testing.assert_array_equal(in_kernel(body, ROW, vals, dtype), expected)


def test_match_replace_works_from_the_last_value() -> None:
    vals = np.array([[8, 8, 7, 6, -1, -1, -1, -1]], np.float32)

    def body(x: Any, v: Any) -> tuple[np.ndarray, np.ndarray]:
        data, places = loaded(x), nl.ndarray((1, 8), dtype=nl.uint32)
        nisa.nc_match_replace8(dst=data, data=data, vals=loaded(v), imm=-9.0, dst_idx=places)
        return values(data), values(places)

    replaced, places = in_kernel(body, ROW, vals)
    np.testing.assert_array_equal(replaced, [[3, -9, 1, -9, 5, 8, 0, 2, -9]])
    np.testing.assert_array_equal(places[0, :4], [3, 1, 8, 2**32 - 1])


def test_stream_shuffle() -> None:
    data = RNG.standard_normal((64, 3)).astype(np.float32)
    mask = [*range(1, 32), 255]

    def body(x: Any) -> np.ndarray:
        dst = tile((64, 3), value=5)
        nisa.nc_stream_shuffle(dst=dst, src=loaded(x), shuffle_mask=mask)
        return values(dst)

    expected = np.concatenate([data[1:32], [[5] * 3], data[33:64], [[5] * 3]])
    np.testing.assert_array_equal(in_kernel(body, data), expected)


def test_stream_shuffle_broadcasts_a_row() -> None:
    def body(x: Any) -> np.ndarray:
        src, dst = loaded(x), nl.ndarray((128, 10), dtype=nl.float32)
        for q in range(4):
            nisa.nc_stream_shuffle(
                dst=dst[32 * q : 32 * q + 32], src=src[0:1], shuffle_mask=[0] * 32
            )
        dst.require_written("test", "dst")
        return values(dst)

    np.testing.assert_array_equal(in_kernel(body, A), np.tile(A[0], (128, 1)))
    with pytest.raises(IllegalProgram, match="rows of src only"):
        in_kernel(lambda: nisa.nc_stream_shuffle(tile((64, 2)), tile((1, 2)), [0] * 32))


@pytest.mark.parametrize("mask", [[0] * 31, [32] * 32, None, [0.0] * 32])
def test_stream_shuffle_masks(mask: Any) -> None:
    with pytest.raises(IllegalProgram, match="list of 32 numbers"):
        in_kernel(lambda: nisa.nc_stream_shuffle(tile((32, 2)), tile((32, 2)), mask))


def test_copy_predicated() -> None:
    chosen = (A > 0).astype(np.uint8)

    def body(x: Any, y: Any, p: Any, reverse: bool) -> np.ndarray:
        dst = loaded(x)
        nisa.tensor_copy_predicated(
            dst=dst, src=loaded(y), predicate=loaded(p), reverse_pred=reverse
        )
        return values(dst)

    np.testing.assert_array_equal(in_kernel(body, A, B, chosen, False), np.where(A > 0, B, A))
    np.testing.assert_array_equal(in_kernel(body, A, B, chosen, True), np.where(A > 0, A, B))


def test_copy_predicated_takes_a_number() -> None:
    def body(p: Any) -> np.ndarray:
        dst = tile((6, 10), "int8")
        nisa.tensor_copy_predicated(dst=dst, src=300.0, predicate=loaded(p))
        return values(dst)

    got = in_kernel(body, (A > 0).astype(np.uint8))
    np.testing.assert_array_equal(got, np.where(A > 0, 127, 0))


def test_bitwise_immediates_are_bits() -> None:
    def body(x: Any) -> np.ndarray:
        data = loaded(x)
        nisa.tensor_scalar(dst=data, data=data, op0=nl.bitwise_xor, operand0=0xFFFFFFFF)
        return values(data)

    array = np.array([[0, 5, -7]], np.int32)
    np.testing.assert_array_equal(in_kernel(body, array), ~array)


def test_copy_predicated_leaves_the_rest_uninitialised() -> None:
    def call(dst: Any, a: Any) -> None:
        half = tile((6, 10), "uint8")
        nisa.memset(dst=half[:, 0:5], value=1)
        nisa.tensor_copy_predicated(dst=dst, src=a, predicate=half)

    with pytest.raises(UninitialisedRead, match=r"\(0, 5\)"):
        result(call, A.shape, A)


def test_iota_and_affine_select() -> None:
    def body(x: Any) -> tuple[np.ndarray, np.ndarray]:
        index = nl.ndarray((6, 10), dtype=nl.int32)
        nisa.iota(dst=index, pattern=[[10, 2], [1, 5]], offset=3, channel_multiplier=100)
        masked = loaded(x)
        nisa.affine_select(
            dst=masked, pattern=[[-1, 10]], channel_multiplier=1, on_true_tile=masked,
            on_false_value=-1.0, cmp_op=nl.greater_equal,
        )  # fmt: skip
        return values(index), values(masked)

    index, masked = in_kernel(body, A)
    row = 3 + (np.arange(2)[:, None] * 10 + np.arange(5)).ravel()
    np.testing.assert_array_equal(index, row + 100 * np.arange(6)[:, None])
    np.testing.assert_array_equal(masked, np.where(np.tri(6, 10, dtype=bool), A, -1))


def test_transpose_is_exact_for_nan_and_infinity() -> None:
    odd = A.copy()
    odd[0, 0], odd[1, 1] = np.nan, np.inf

    def body(x: Any) -> list[np.ndarray]:
        data, moved = loaded(x), nl.ndarray((10, 6), dtype=nl.float32, buffer=nl.psum)
        identity = nl.shared_identity_matrix(6, dtype=nl.float32)
        nisa.nc_transpose(dst=moved, data=data)
        other = nl.ndarray((10, 6), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul(dst=other, stationary=data, moving=identity, is_transpose=True)
        small = nl.ndarray((10, 6), dtype=nl.float32, buffer=nl.sbuf)
        nisa.nc_transpose(dst=small, data=data)
        return [values(moved), values(other), values(small)]

    for got in in_kernel(body, odd):
        np.testing.assert_array_equal(got, odd.T)


def test_transpose_refusals() -> None:
    def large() -> None:
        nisa.nc_transpose(dst=nl.ndarray((40, 4), dtype=nl.float32), data=tile((4, 40)))

    def no_identity() -> None:
        total = nl.ndarray((4, 4), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul(dst=total, stationary=tile((4, 4)), moving=tile((4, 4)), is_transpose=True)

    for body, fragment in ((large, "SBUF to PSUM"), (no_identity, "identity")):
        with pytest.raises(IllegalProgram, match=fragment):
            in_kernel(body)


def test_column_tiling() -> None:
    a, b = RNG.standard_normal((2, 128, 32)).astype(np.float32)

    def body(x: Any, y: Any) -> np.ndarray:
        total = nl.ndarray((128, 32), dtype=nl.float32, buffer=nl.psum)
        for i in range(4):
            nisa.nc_matmul(
                dst=total[32 * i : 32 * i + 32], stationary=loaded(x), moving=loaded(y),
                tile_position=(0, 32 * i), tile_size=(128, 32),
            )  # fmt: skip
        return values(total)

    np.testing.assert_allclose(in_kernel(body, a, b)[96:], a.T @ b, rtol=1e-5, atol=1e-5)


def test_tiling_must_match_the_operands() -> None:
    def body() -> None:
        total = nl.ndarray((128, 32), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul(
            dst=total[0:32], stationary=tile((128, 32)), moving=tile((128, 32)),
            tile_position=(0, 32), tile_size=(128, 32),
        )  # fmt: skip

    with pytest.raises(IllegalProgram, match="describe where the operands lie"):
        in_kernel(body)


@pytest.mark.parametrize(
    ("body", "fragment"),
    [
        (lambda t: nisa.memset(tile((4, 4), "int32"), 0.0), "integer literal"),
        (lambda t: nisa.memset(t, "0"), "Python number"),
        (lambda t: nisa.memset(tile((4, 4), "uint8"), 300), "300 for uint8"),
        (lambda t: nisa.tensor_scalar(t, t, nl.multiply, tile((6, 1), "bfloat16")), "float32"),
        (lambda t: nisa.tensor_scalar(t, t, nl.bitwise_and, 1), "integer tensors"),
        (lambda t: nisa.tensor_scalar(t, t, nl.add, 1.0, op1=nl.invert), "bitwise or neither"),
        (lambda t: nisa.tensor_scalar(t, t, nl.add, None), "has its operand"),
        (lambda t: nisa.tensor_scalar(t, t, nl.add, 1.0, operand1=1.0), "needs op1"),
        (lambda t: nisa.tensor_tensor(t, t, t[:, 0:1], nl.add), "nothing is broadcast"),
        (lambda t: nisa.activation(t, nl.add, t), "op must be one of"),
        (lambda t: nisa.activation(t, nl.exp, t, scale=tile((6, 1), "bfloat16")), "float32"),
        (lambda t: nisa.activation(t, nl.exp, t, bias=tile((6, 2))), "must agree"),
        (lambda t: nisa.iota(t, [[1, 9]]), "counting the elements"),
        (lambda t: nisa.affine_select(t, [[1, 10]], 1, t, t), "Python number"),
    ],
)
def test_rules_of_single_instructions(body: Callable[[Any], None], fragment: str) -> None:
    with pytest.raises(IllegalProgram, match=fragment):
        in_kernel(lambda x: body(loaded(x)), A)


def test_two_inputs_in_psum_are_refused() -> None:
    def body() -> None:
        both = tile((4, 4), buffer=nl.psum)
        nisa.tensor_tensor(dst=tile((4, 4)), data1=both, data2=both, op=nl.add)

    with pytest.raises(IllegalProgram, match="at most one of data1 and data2"):
        in_kernel(body)


def test_a_scalar_bias_needs_trn2(monkeypatch: pytest.MonkeyPatch) -> None:
    got = result(lambda d, a: nisa.activation(d, nl.copy, a, bias=1.0), A.shape, A)
    np.testing.assert_array_equal(got, A + np.float32(1))
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn1")
    with pytest.raises(IllegalProgram, match="trn2 or later"):
        result(lambda d, a: nisa.activation(d, nl.copy, a, bias=1.0), A.shape, A)
