"""Reductions, scans, selections, statistics and activate2, against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nki_sim.errors import IllegalProgram, UninitialisedRead

from .support import in_kernel, loaded, tile, values

RNG = np.random.default_rng(11)
FP32_MIN = np.finfo(np.float32).min
A = RNG.standard_normal((6, 10)).astype(np.float32)
B = RNG.standard_normal((6, 10)).astype(np.float32)
COLUMN = RNG.standard_normal((6, 1)).astype(np.float32)
CMD = nisa.reduce_cmd


def results(
    call: Callable[..., None], shapes: dict[str, tuple[int, ...]], *arrays: np.ndarray,
    dtype: str = "float32",
) -> list[np.ndarray]:  # fmt: skip
    """What ``call(tiles..., **outputs)`` leaves in outputs of these shapes."""

    def body(*tensors: Any) -> list[np.ndarray]:
        outputs = {name: nl.ndarray(shape, dtype=dtype) for name, shape in shapes.items()}
        call(*(loaded(t) for t in tensors), **outputs)
        for name, output in outputs.items():
            output.require_written("test", name)
        return [values(output) for output in outputs.values()]

    return in_kernel(body, *arrays)


@pytest.fixture
def trn3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn3")


# -- range_select, select_reduce -------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    start=st.integers(0, 100),
    bounds=st.tuples(st.integers(-5, 120), st.integers(-5, 120)),
    ops=st.tuples(*[st.sampled_from(["less", "less_equal", "greater", "greater_equal"])] * 2),
)
def test_range_select(start: int, bounds: tuple[int, int], ops: tuple[str, str]) -> None:
    low, high = (np.full((6, 1), bound, np.float32) for bound in bounds)

    def call(data: Any, first: Any, second: Any, dst: Any, best: Any) -> None:
        nisa.range_select(
            dst, data, getattr(nl, ops[0]), getattr(nl, ops[1]), first, second,
            reduce_res=best, range_start=start,
        )  # fmt: skip

    got, best = results(call, {"dst": (6, 10), "best": (6, 1)}, A, low, high)
    index = start + np.arange(10)
    mask = getattr(np, ops[0])(index, low) & getattr(np, ops[1])(index, high)
    expected = np.where(mask, A, FP32_MIN)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(best, expected.max(axis=1, keepdims=True))


def test_range_select_keeps_a_running_maximum() -> None:
    def call(a: Any, b: Any, dst: Any, best: Any) -> None:
        low, high = tile((6, 1)), tile((6, 1), value=5)
        args = {"comp_op0": nl.greater_equal, "comp_op1": nl.less, "bound0": low, "bound1": high}
        nisa.range_select(dst, a, **args, reduce_cmd=CMD.reset_reduce)
        nisa.range_select(dst, b, **args, reduce_cmd=CMD.reduce, reduce_res=best)

    _, best = results(call, {"dst": (6, 10), "best": (6, 1)}, A, B)
    expected = np.maximum(A[:, :5].max(axis=1), B[:, :5].max(axis=1))
    np.testing.assert_array_equal(best[:, 0], expected)


def test_range_select_of_nothing_is_infinite_in_bf16_and_finite_in_fp32() -> None:
    def body(data: Any) -> tuple[np.ndarray, np.ndarray]:
        dst = nl.ndarray((6, 10), dtype=nl.bfloat16)
        best = nl.ndarray((6, 1), dtype=nl.float32)
        zero = tile((6, 1))
        nisa.range_select(dst, loaded(data), nl.less, nl.less, zero, zero, reduce_res=best)
        return values(dst), values(best)

    got, best = in_kernel(body, A)
    assert np.isneginf(got.astype(np.float32)).all() and (best == FP32_MIN).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"on_false_value": 0.0}, "on_false_value"),
        ({"range_start": 2**24}, "2\\*\\*24"),
        ({"range_start": 0.5}, "whole number"),
        ({"comp_op0": nl.not_equal}, "comp_op0 must be one of"),
        ({"reduce_op": nl.add}, "reduce_op is nl.maximum"),
        ({"reduce_cmd": CMD.load_reduce}, "reduce_cmd is idle, reset, reduce, reset_reduce"),
    ],
)
def test_range_select_refusals(wrong: dict[str, Any], message: str) -> None:
    def body() -> None:
        t, column = tile((4, 8)), tile((4, 1))
        legal = {"comp_op0": nl.less, "comp_op1": nl.less, "bound0": column, "bound1": column}
        nisa.range_select(dst=t, on_true_tile=t, **(legal | wrong))

    with pytest.raises(IllegalProgram, match=message):
        in_kernel(body)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("scalar", [False, True])
def test_select_reduce(reverse: bool, scalar: bool) -> None:
    predicate = RNG.integers(0, 2, (6, 10)).astype(np.uint8)

    def call(mask: Any, data: Any, column: Any, dst: Any, best: Any) -> None:
        nisa.select_reduce(
            dst, mask, data, -3.0 if scalar else column, reduce_res=best,
            reduce_cmd=CMD.reset_reduce, reverse_pred=reverse,
        )  # fmt: skip

    got, best = results(call, {"dst": (6, 10), "best": (6, 1)}, predicate, A, COLUMN)
    expected = np.where((predicate != 0) ^ reverse, A, np.float32(-3) if scalar else COLUMN)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(best, expected.max(axis=1, keepdims=True))


def test_select_reduce_reads_one_psum_operand_only() -> None:
    def body() -> None:
        mask = tile((4, 8), "uint8", nl.psum)
        nisa.select_reduce(tile((4, 8)), mask, tile((4, 8), "float32", nl.psum), 0.0)

    with pytest.raises(IllegalProgram, match="at most one of on_true and predicate"):
        in_kernel(body)


# -- the vector engine's accumulator registers -----------------------------------------------------


def test_registers_are_shared_and_idle_may_clobber_them() -> None:
    def chain(middle: Any) -> None:
        t, mask, best = tile((4, 8)), tile((4, 8), "uint8"), tile((4, 1))
        nisa.select_reduce(t, mask, t, 1.0, reduce_cmd=CMD.reset_reduce)
        if middle is not None:
            nisa.select_reduce(t, mask, t, 2.0, reduce_cmd=middle)
        nisa.tensor_scalar_reduce(t, t, nl.add, 0.0, nl.maximum, best, reduce_cmd=CMD.reduce)
        nisa.tensor_scalar(t, t, nl.add, 0.0)

    in_kernel(chain, None)
    with pytest.raises(UninitialisedRead, match=r"reduce_cmd\.idle may change them"):
        in_kernel(chain, CMD.idle)


def test_registers_are_kept_per_partition_and_per_engine() -> None:
    def other_rows() -> None:
        t = tile((64, 8))
        nisa.tensor_scalar_reduce(t[0:32, :], t[0:32, :], nl.add, 0.0, nl.add)
        nisa.tensor_scalar_reduce(
            t[32:64, :], t[32:64, :], nl.add, 0.0, nl.add, tile((32, 1)), reduce_cmd=CMD.reduce
        )

    with pytest.raises(UninitialisedRead, match="accumulator registers"):
        in_kernel(other_rows)

    def other_engine() -> None:
        t = tile((4, 8))
        nisa.activation(t, nl.copy, t, reduce_op=nl.add, reduce_cmd=CMD.reset_reduce)
        nisa.tensor_scalar_reduce(t, t, nl.add, 0.0, nl.add, tile((4, 1)), reduce_cmd=CMD.reduce)

    with pytest.raises(UninitialisedRead, match="accumulator registers"):
        in_kernel(other_engine)


def test_a_result_without_a_reduction_is_refused() -> None:
    def body() -> None:
        nisa.select_reduce(tile((4, 8)), tile((4, 8), "uint8"), tile((4, 8)), 0.0, tile((4, 1)))

    with pytest.raises(UninitialisedRead, match="must be reset"):
        in_kernel(body)


def test_the_reduction_is_read_after_the_results_are_written() -> None:
    """reduce_res may be a column of dst."""

    def body(data: Any) -> np.ndarray:
        dst = tile((6, 10))
        nisa.activation(
            dst, nl.copy, loaded(data), reduce_op=nl.add, reduce_res=dst[:, 0:1],
            reduce_cmd=CMD.reset_reduce,
        )  # fmt: skip
        return values(dst)

    got = in_kernel(body, A)
    np.testing.assert_array_equal(got[:, 1:], A[:, 1:])
    np.testing.assert_allclose(got[:, 0], A.sum(axis=1), rtol=1e-5)


def test_activation_has_no_load_reduce() -> None:
    with pytest.raises(IllegalProgram, match="reduce_cmd is idle, reset"):
        in_kernel(
            lambda: nisa.activation(
                tile((4, 8)), nl.copy, tile((4, 8)), reduce_op=nl.add, reduce_cmd=CMD.load_reduce
            )
        )


# -- tensor_scalar_reduce, tensor_partition_reduce, tensor_reduce ----------------------------------


@pytest.mark.parametrize("op", ["add", "multiply", "maximum", "minimum"])
def test_tensor_scalar_reduce(op: str) -> None:
    def call(a: Any, b: Any, column: Any, dst: Any, first: Any, both: Any, negated: Any) -> None:
        args = {"op0": nl.multiply, "operand0": column, "reduce_op": getattr(nl, op)}
        nisa.tensor_scalar_reduce(dst, b, **args, reduce_res=first)
        nisa.tensor_scalar_reduce(dst, a, **args, reduce_cmd=CMD.reduce, reduce_res=both)
        nisa.tensor_scalar_reduce(
            dst, a, **args, reduce_cmd=CMD.load_reduce, reduce_init=column, reduce_res=negated,
            reduce_res_negate=True,
        )  # fmt: skip

    shapes = {"dst": (6, 10), "first": (6, 1), "both": (6, 1), "negated": (6, 1)}
    dst, first, both, negated = results(call, shapes, A, B, COLUMN)
    function = getattr(np, op)
    one = function.reduce(B * COLUMN, axis=1, keepdims=True)
    two = function.reduce(A * COLUMN, axis=1, keepdims=True)
    np.testing.assert_array_equal(dst, A * COLUMN)
    np.testing.assert_allclose(first, one, rtol=1e-5)
    np.testing.assert_allclose(both, function(one, two), rtol=1e-5)
    np.testing.assert_allclose(negated, -function(COLUMN, two), rtol=1e-5)


def test_tensor_scalar_reduce_reduces_unrounded_values() -> None:
    def body(data: Any) -> np.ndarray:
        dst, total = nl.ndarray((6, 10), dtype=nl.bfloat16), nl.ndarray((6, 1), dtype=nl.float32)
        nisa.tensor_scalar_reduce(dst, loaded(data), nl.multiply, 1.0, nl.add, total)
        return values(total)

    np.testing.assert_allclose(in_kernel(body, A), A.sum(axis=1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"reverse0": True}, "reverse0 is not supported"),
        ({"reduce_op": nl.subtract}, "reduce_op is nl.add"),
        ({"op0": nl.bitwise_and}, "op0 must be one of"),
        ({"op0": nl.power}, "op0 must be one of"),
        ({"operand0": None}, "has its operand"),
        ({"reduce_cmd": CMD.idle}, "reduce_cmd is reset_reduce, reduce, load_reduce"),
        ({"reduce_init": 1.0}, "only then"),
        ({"reduce_cmd": CMD.load_reduce}, "only then"),
        ({"reduce_res_negate": True}, "needs reduce_res"),
        ({"op0": nl.abs_max}, "exists from trn3 on"),
    ],
)
def test_tensor_scalar_reduce_refusals(wrong: dict[str, Any], message: str) -> None:
    def body() -> None:
        t = tile((4, 8))
        legal = {"op0": nl.add, "operand0": 1.0, "reduce_op": nl.add}
        nisa.tensor_scalar_reduce(dst=t, data=t, **(legal | wrong))

    with pytest.raises(IllegalProgram, match=message):
        in_kernel(body)


@pytest.mark.parametrize("op", ["add", "average", "maximum"])
def test_tensor_partition_reduce(op: str) -> None:
    def call(a: Any, dst: Any) -> None:
        nisa.tensor_partition_reduce(dst=dst, op=getattr(nl, op), data=a)

    (got,) = results(call, {"dst": (1, 10)}, A)
    expected = {"add": np.sum, "average": np.mean, "maximum": np.max}[op](A, axis=0, keepdims=True)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_tensor_partition_reduce_of_integers_is_exact() -> None:
    data = RNG.integers(-(2**27), 2**27, (8, 5)).astype(np.int32)

    def body(source: Any) -> list[np.ndarray]:
        got = []
        for op in (nl.add, nl.bitwise_or, nl.bitwise_and):
            dst = nl.ndarray((1, 5), dtype=nl.int32)
            nisa.tensor_partition_reduce(dst, op, loaded(source))
            got.append(values(dst)[0])
        return got

    total, either, both = in_kernel(body, data)
    np.testing.assert_array_equal(total, data.sum(axis=0))
    np.testing.assert_array_equal(either, np.bitwise_or.reduce(data, axis=0))
    np.testing.assert_array_equal(both, np.bitwise_and.reduce(data, axis=0))
    with pytest.raises(IllegalProgram, match=r"op must be one of nl\.add, nl\.average"):
        in_kernel(lambda: nisa.tensor_partition_reduce(tile((1, 4)), nl.minimum, tile((4, 4))))


def test_tensor_reduce_takes_the_axes_of_nki_02() -> None:
    def reduced(axis: Any) -> Any:
        def body() -> Any:
            cube, dst = tile((6, 5, 8)), tile((6, 5))
            nisa.iota(dst=cube, pattern=[[8, 5], [1, 8]], offset=0, channel_multiplier=1)
            nisa.tensor_reduce(dst, nl.add, cube, axis=axis)
            return np.array(dst.array)

        return in_kernel(body)

    for axis in ([4], 4, 2, [2]):
        expected = reduced(axis)
    with pytest.warns(UserWarning, match="axis=1 of 3 dimensions is refused"):
        np.testing.assert_array_equal(reduced(1), expected)
    with pytest.raises(IllegalProgram, match="trailing free dimensions"):
        reduced([1])


def test_tensor_reduce_negates_and_keeps_dimensions() -> None:
    def call(a: Any, dst: Any) -> None:
        cube = a.reshape((6, 2, 5))
        nisa.tensor_reduce(dst, nl.maximum, cube, axis=2, negate=True, keepdims=True)

    (got,) = results(call, {"dst": (6, 2, 1)}, A)
    np.testing.assert_array_equal(got, -A.reshape(6, 2, 5).max(axis=2, keepdims=True))


# -- scans -----------------------------------------------------------------------------------------

BINARY = ("add", "subtract", "multiply", "maximum", "minimum", "greater")


@settings(max_examples=60, deadline=None)
@given(
    ops=st.tuples(st.sampled_from(BINARY), st.sampled_from(BINARY)),
    reverse=st.tuples(st.booleans(), st.booleans()),
    initial=st.sampled_from([0.0, 1.5, None]),
    ones=st.booleans(),
)
def test_tensor_tensor_scan(
    ops: tuple[str, str], reverse: tuple[bool, bool], initial: float | None, ones: bool
) -> None:
    first = np.ones_like(A) if ones else A

    def call(a: Any, b: Any, column: Any, dst: Any) -> None:
        start = column if initial is None else initial
        nisa.tensor_tensor_scan(
            dst, a, b, start, getattr(nl, ops[0]), getattr(nl, ops[1]), *reverse
        )

    (got,) = results(call, {"dst": (6, 10)}, first, B, COLUMN)
    state = COLUMN[:, 0] if initial is None else np.full(6, initial, np.float32)
    for k in range(10):
        for op, other, swapped in ((ops[0], first, reverse[0]), (ops[1], B, reverse[1])):
            # the state is the right operand of op0 and the left one of op1
            pair = (other[:, k], state) if op is ops[0] and other is first else (state, other[:, k])
            state = getattr(np, op)(*(pair[::-1] if swapped else pair)).astype(np.float32)
        np.testing.assert_allclose(got[:, k], state, rtol=1e-6)


def test_scans_of_integers_start_from_integers() -> None:
    counts = RNG.integers(0, 9, (3, 7)).astype(np.int32)

    def body(data: Any) -> np.ndarray:
        dst, ones = nl.ndarray((3, 7), dtype=nl.int32), tile((3, 7), "int32", value=1)
        start = tile((3, 1), "int32", value=4)
        nisa.tensor_tensor_scan(dst, ones, loaded(data), start, nl.multiply, nl.add)
        return values(dst)

    np.testing.assert_array_equal(in_kernel(body, counts), 4 + counts.cumsum(axis=1))


@settings(max_examples=60, deadline=None)
@given(
    op0=st.sampled_from(["add", "multiply", "maximum"]),
    op1=st.sampled_from(["add", "subtract", "multiply", "maximum", "minimum"]),
    command=st.sampled_from(["reset_reduce", "load_reduce"]),
)
def test_tensor_scalar_cumulative(op0: str, op1: str, command: str) -> None:
    def call(a: Any, b: Any, column: Any, first: Any, second: Any) -> None:
        ops = {"op0": getattr(nl, op0), "op1": getattr(nl, op1), "imm0": 0.5}
        initial = {"imm1": column} if command == "load_reduce" else {}
        nisa.tensor_scalar_cumulative(first, a, **ops, **initial, reduce_cmd=getattr(CMD, command))
        nisa.tensor_scalar_cumulative(second, b, **ops, imm1=7.0, reduce_cmd=CMD.reduce)

    got = results(call, {"first": (6, 10), "second": (6, 10)}, A, B, COLUMN)
    identity = {"add": 0, "subtract": 0, "multiply": 1, "maximum": -np.inf, "minimum": np.inf}[op1]
    state = COLUMN[:, 0] if command == "load_reduce" else np.full(6, identity, np.float32)
    for result, source in zip(got, (A, B), strict=True):
        for k in range(10):
            value = getattr(np, op0)(source[:, k], np.float32(0.5))
            state = getattr(np, op1)(value, state)
            np.testing.assert_allclose(result[:, k], state, rtol=1e-5)


def test_cumulative_keeps_32_bits_between_elements() -> None:
    def body(data: Any) -> np.ndarray:
        dst = nl.ndarray((1, 300), dtype=nl.bfloat16)
        nisa.tensor_scalar_cumulative(dst, loaded(data), nl.add, nl.add, 0.0)
        return values(dst)

    got = in_kernel(body, np.ones((1, 300), np.float32)).astype(np.float32)
    np.testing.assert_array_equal(got[0], np.arange(1, 301).astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"op1": nl.logical_and}, "op1 must be one of"),
        ({"op0": nl.bitwise_or}, "op0 must be one of"),
        ({"reduce_cmd": CMD.load_reduce}, "load_reduce loads imm1"),
        ({"reduce_cmd": CMD.idle}, "reduce_cmd is reset_reduce"),
    ],
)
def test_cumulative_refusals(wrong: dict[str, Any], message: str) -> None:
    def body() -> None:
        t = tile((4, 8))
        legal = {"op0": nl.add, "op1": nl.add, "imm0": 0.0}
        nisa.tensor_scalar_cumulative(t, t, **(legal | wrong))

    with pytest.raises(IllegalProgram, match=message):
        in_kernel(body)


def test_cumulative_takes_no_32_bit_integers() -> None:
    with pytest.raises(IllegalProgram, match="must be of type"):
        in_kernel(
            lambda: nisa.tensor_scalar_cumulative(
                tile((4, 8), "int32"), tile((4, 8)), nl.add, nl.add, 0.0
            )
        )


# -- bn_stats, bn_aggr -----------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_mean_and_variance(sizes: list[int]) -> None:
    data = RNG.standard_normal((5, sum(sizes))).astype(np.float32) * 3 + 1

    def call(a: Any, dst: Any) -> None:
        stats = nl.ndarray((5, 6 * len(sizes)), dtype=nl.float32)
        start = 0
        for number, size in enumerate(sizes):
            nisa.bn_stats(stats[:, 6 * number : 6 * number + 6], a[:, start : start + size])
            start += size
        nisa.bn_aggr(dst, stats)

    (got,) = results(call, {"dst": (5, 2)}, data)
    np.testing.assert_allclose(got[:, 0], data.mean(axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got[:, 1], data.var(axis=1), rtol=1e-4, atol=1e-5)


def test_bn_stats_layout() -> None:
    (got,) = results(lambda a, dst: nisa.bn_stats(dst, a), {"dst": (6, 6)}, A[:, :9])
    even, odd = A[:, :9:2], A[:, 1:9:2]
    expected = [f(part) for part in (even, odd) for f in (
        lambda p: np.full(6, p.shape[1]), lambda p: p.mean(axis=1),
        lambda p: p.var(axis=1) * p.shape[1],
    )]  # fmt: skip
    np.testing.assert_allclose(got, np.stack(expected, axis=1), rtol=1e-5, atol=1e-6)
    with pytest.raises(IllegalProgram, match="data holds triples"):
        in_kernel(lambda: nisa.bn_aggr(tile((4, 2)), tile((4, 7))))


# -- trn3: exponential, activate2, late operators --------------------------------------------------


@pytest.mark.usefixtures("trn3")
def test_exponential() -> None:
    def call(a: Any, b: Any, column: Any, dst: Any, total: Any, loaded_total: Any) -> None:
        nisa.exponential(dst, b, column, reduce_cmd=CMD.reset_reduce)
        nisa.exponential(dst, a, column, total, CMD.reduce)
        nisa.exponential(dst, a, column, loaded_total, CMD.load_reduce, reduce_init=2.0)

    shapes = {"dst": (6, 10), "total": (6, 1), "loaded_total": (6, 1)}
    dst, total, loaded_total = results(call, shapes, A, B, COLUMN)
    one, two = np.exp(A - COLUMN), np.exp(B - COLUMN)
    np.testing.assert_array_equal(dst, one)
    np.testing.assert_allclose(total[:, 0], one.sum(axis=1) + two.sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(loaded_total[:, 0], one.sum(axis=1) + 2, rtol=1e-5)
    with pytest.raises(IllegalProgram, match="reduce_init is given with"):
        in_kernel(lambda: nisa.exponential(tile((4, 8)), tile((4, 8)), reduce_init=1.0))


STAGES = {
    ("multiply", "add"): lambda x, a, b: x * a + b,
    ("multiply", "subtract"): lambda x, a, b: x * a - b,
    ("multiply", "bypass"): lambda x, a, b: x * a,
    ("add", "bypass"): lambda x, a, b: x + a,
    ("subtract", "bypass"): lambda x, a, b: x - a,
    ("bypass", "bypass"): lambda x, a, b: x,
}


@pytest.mark.usefixtures("trn3")
@pytest.mark.parametrize("stages", STAGES)
def test_activate2(stages: tuple[str, str]) -> None:
    def call(a: Any, column: Any, dst: Any) -> None:
        nisa.activate2(
            dst, nl.tanh, a, column, 0.25, getattr(nl, stages[0]), getattr(nl, stages[1])
        )

    (got,) = results(call, {"dst": (6, 10)}, A, COLUMN)
    expected = np.tanh(STAGES[stages](A, COLUMN, np.float32(0.25)))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.usefixtures("trn3")
@pytest.mark.parametrize("op", ["add", "maximum", "minimum", "abs_max", "abs_min"])
def test_activate2_reduces(op: str) -> None:
    def call(a: Any, b: Any, dst: Any, result: Any) -> None:
        stages = {"imm0": 0.0, "imm1": 0.0, "op0": nl.bypass, "op1": nl.bypass}
        for source, command in ((a, CMD.reset_reduce), (b, CMD.reduce)):
            nisa.activate2(
                dst, nl.prelu, source, **stages, relu_param=0.1, reduce_op=getattr(nl, op),
                reduce_cmd=command, reduce_res=result,
            )  # fmt: skip

    _, got = results(call, {"dst": (6, 10), "result": (6, 1)}, A, B)
    both = np.concatenate((A, B), axis=1)
    both = np.where(both > 0, both, both * np.float32(0.1))
    reducers = {
        "add": both.sum(axis=1), "maximum": both.max(axis=1), "minimum": both.min(axis=1),
        "abs_max": np.abs(both).max(axis=1), "abs_min": np.abs(both).min(axis=1),
    }  # fmt: skip
    np.testing.assert_allclose(got[:, 0], reducers[op], rtol=1e-5)


@pytest.mark.usefixtures("trn3")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"op0": nl.add, "op1": nl.add}, "op0 and op1 are one of"),
        ({"op0": nl.bypass, "op1": nl.bypass, "reverse0": True}, "only an operator is reversed"),
        ({"op": nl.add}, "op must be one of"),
        ({"relu_param": 0.5}, "parameter of nl.prelu"),
        ({"reduce_cmd": CMD.reset_reduce}, "reduce_op is nl.add"),
        ({"reduce_cmd": CMD.load_reduce, "reduce_op": nl.add}, "reduce_cmd is idle"),
    ],
)
def test_activate2_refusals(wrong: dict[str, Any], message: str) -> None:
    def body() -> None:
        t = tile((4, 8))
        legal = {"op": nl.exp, "imm0": 1.0, "imm1": 0.0, "op0": nl.multiply, "op1": nl.add}
        nisa.activate2(dst=t, data=t, **(legal | wrong))

    with pytest.raises(IllegalProgram, match=message):
        in_kernel(body)


def test_prelu_belongs_to_activate2() -> None:
    with pytest.raises(IllegalProgram, match="op must be one of"):
        in_kernel(lambda: nisa.activation(tile((4, 8)), nl.prelu, tile((4, 8))))


def late(name: str) -> list[np.ndarray]:
    def call(a: Any, b: Any, first: Any, second: Any) -> None:
        op = getattr(nl, name)
        if name in ("square", "relu"):
            nisa.tensor_scalar(first, a, op, 0.0)
            nisa.tensor_scalar(second, b, op, None, op1=nl.add, operand1=1.0)
        else:
            nisa.tensor_tensor(first, a, b, op)
            nisa.tensor_scalar(second, b, op, 0.75)

    return results(call, {"first": (6, 10), "second": (6, 10)}, A, B)


@pytest.mark.usefixtures("trn3")
def test_late_operators() -> None:
    half = np.float32(0.75)
    expected = {
        "square": (A * A, B * B + 1),
        "relu": (np.maximum(A, 0), np.maximum(B, 0) + 1),
        "abs_max": (np.maximum(abs(A), abs(B)), np.maximum(abs(B), half)),
        "abs_min": (np.minimum(abs(A), abs(B)), np.minimum(abs(B), half)),
    }
    for name, arrays in expected.items():
        for got, array in zip(late(name), arrays, strict=True):
            np.testing.assert_array_equal(got, array)


@pytest.mark.usefixtures("trn3")
def test_late_operators_run_on_the_vector_engine() -> None:
    def body() -> None:
        t = tile((4, 8))
        nisa.tensor_tensor(t, t, t, nl.abs_max, engine=nisa.engine.gpsimd)

    with pytest.raises(IllegalProgram, match="run on the vector engine"):
        in_kernel(body)


@pytest.mark.parametrize("name", ["square", "relu", "abs_max", "abs_min"])
def test_late_operators_are_refused_on_trn2(name: str) -> None:
    with pytest.raises(IllegalProgram, match="exists from trn3 on; received trn2"):
        late(name)


def test_reciprocal_is_an_alu_operator_too() -> None:
    (got,) = results(
        lambda a, dst: nisa.tensor_scalar(dst, a, nl.reciprocal, 0.0), {"dst": (6, 10)}, A
    )
    np.testing.assert_array_equal(got, 1 / A)


# -- handles ---------------------------------------------------------------------------------------


def test_calls_return_handles() -> None:
    def body() -> Any:
        a, b = tile((4, 8)), tile((4, 8))
        first = nisa.tensor_scalar(a, a, nl.add, 1.0)
        second = nisa.tensor_copy(dst=b, src=b)
        third = nisa.reciprocal(dst=a, data=a)
        assert isinstance(third, nisa.NkiInstruction)
        assert third.depends_on(first).depends_on(second, kind=nisa.dependency.schedule) is third
        for wrong, message in ((third, "waits for itself"), (None, "takes instructions")):
            with pytest.raises(IllegalProgram, match=message):
                third.depends_on(wrong)
        return third

    third = in_kernel(body)
    assert third.launch.dependencies == [(third.number, third.number - 2), (third.number, 3)]


def test_sub_version_is_a_number() -> None:
    assert nisa.get_nc_sub_version() == 0
