"""The comparison itself: faults of every kind are found, with a wide gap; sound kernels pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from kernels import reference
from kernels.specs import SPECS, KernelSpec, Refusal, Tolerance
from kernels.verification import Verification, ulp_distance, verify, verify_refusal

Array = np.ndarray
LARGE = 200_000  # elements


def outcomes(kernel: str, dtype: str, launch: Callable[..., Any]) -> list[Verification]:
    """Verification of `launch`, as if it were the kernel, on all cases that are not large."""
    spec = SPECS[kernel]
    cases = [c for c in spec.cases if math.prod(next(iter(c.shapes.values()))) <= LARGE]
    return [verify(spec, case, dtype, launch) for case in cases]


def as_kernel(spec: KernelSpec) -> Callable[..., Any]:
    """The oracle, which leaves its arguments alone, updating those that the kernel updates."""

    def launch(**arguments: Any) -> Any:
        results = spec.reference(**arguments)
        for name, number in spec.updates.items():
            if isinstance(results, tuple):
                arguments[name][...] = results[number]
        return results

    return launch


@pytest.mark.parametrize("kernel", SPECS)
def test_oracle_passes_its_own_comparison(kernel: str) -> None:
    spec = SPECS[kernel]
    for dtype in spec.dtypes:
        for result in outcomes(kernel, dtype, as_kernel(spec)):
            assert result.passed
            assert (result.max_abs_error, result.max_ulp_error) == (0.0, 0)


def _swapped_halves(x: Array, cos: Array, sin: Array) -> Array:
    """RoPE that rotates the wrong way: (v2, -v1) for (-v2, v1)."""
    return reference.rope(x, cos, -sin)


def _interleaved_halves(x: Array, cos: Array, sin: Array) -> Array:
    """RoPE on pairs of neighbours, as GPT-J has it, for halves."""
    rotated = np.stack((-x[:, :, 1::2], x[:, :, 0::2]), axis=3).reshape(x.shape)
    straight = x.astype(np.float32) * cos.astype(np.float32)[:, None, :]
    return (straight + rotated.astype(np.float32) * sin.astype(np.float32)[:, None, :]).astype(
        x.dtype
    )


def _not_renormalised(probabilities: Array) -> tuple[Array, Array]:
    _, indices = reference.top8(probabilities)
    chosen = np.take_along_axis(probabilities, indices.astype(np.int64), axis=1)
    return chosen, indices


def _last_of_equals(probabilities: Array) -> tuple[Array, Array]:
    """Top-8 that takes the highest index among equal probabilities."""
    experts = probabilities.shape[1]
    weights, indices = reference.top8(probabilities[:, ::-1])
    return weights, (experts - 1 - indices.astype(np.int64)).astype(np.uint32)


def _norm_without_residual(x: Array, residual: Array, weight: Array, eps: float) -> Any:
    """Fused norm that forgets the residual in what it normalises."""
    _, total = reference.add_rmsnorm(x, residual, weight, eps)
    return reference.rmsnorm(x, weight, eps), total


def _aggregation_without_last(expert_outputs: Array, weights: Array) -> Array:
    kept = weights.copy()
    kept[:, 7] = 0
    return reference.expert_aggregation(expert_outputs, kept)


def _softmax_missing_a_column(x: Array) -> Array:
    """Softmax whose sum misses half of the last column."""
    whole = reference.softmax(x).astype(np.float32)
    return (whole / (1 - whole[:, -1:] * 0.5)).astype(x.dtype)


FAULTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "eps 1e-5 for 1e-6": ("rmsnorm", lambda x, weight, eps: reference.rmsnorm(x, weight, 10 * eps)),
    "no eps": ("rmsnorm", lambda x, weight, eps: reference.rmsnorm(x, weight, 1e-30)),
    "no weight": (
        "rmsnorm",
        lambda x, weight, eps: reference.rmsnorm(x, np.ones_like(weight), eps),
    ),
    "weight plus one": (
        "rmsnorm",
        lambda x, weight, eps: reference.rmsnorm(
            x, (weight.astype(np.float32) + np.float32(1)).astype(weight.dtype), eps
        ),
    ),
    "sigmoid for silu": (
        "silu",
        lambda x: (1 / (1 + np.exp(-x.astype(np.float32)))).astype(x.dtype),
    ),
    "sigmoid of 1.702 x (gelu)": (
        "silu",
        lambda x: (x.astype(np.float32) / (1 + np.exp(-1.702 * x.astype(np.float32)))).astype(
            x.dtype
        ),
    ),
    "sum too small": ("softmax", _softmax_missing_a_column),
    "softmax of another axis": (
        "softmax",
        lambda x: reference.softmax(np.ascontiguousarray(x.T)).T.copy(),
    ),
    "residual left out": ("add_rmsnorm", _norm_without_residual),
    "results exchanged": ("add_rmsnorm", lambda **v: reference.add_rmsnorm(**v)[::-1]),
    "rotation backwards": ("rope", _swapped_halves),
    "neighbours for halves": ("rope", _interleaved_halves),
    "cos and sin exchanged": ("rope", lambda x, cos, sin: reference.rope(x, sin, cos)),
    "logits scaled by 0.9": (
        "router_softmax",
        lambda logits: reference.router_softmax(
            (logits.astype(np.float32) * np.float32(0.9)).astype(logits.dtype)
        ),
    ),
    "weights not renormalised": ("top8", _not_renormalised),
    "highest index of equals": ("top8", _last_of_equals),
    "one expert left out": ("expert_aggregation", _aggregation_without_last),
    "weights in another order": (
        "expert_aggregation",
        lambda expert_outputs, weights: reference.expert_aggregation(
            expert_outputs, weights[:, ::-1]
        ),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found_with_a_wide_gap(fault: str) -> None:
    kernel, faulty = FAULTS[fault]
    spec = SPECS[kernel]
    for dtype in spec.dtypes:
        found = [result for result in outcomes(kernel, dtype, faulty) if not result.passed]
        assert found, f"{fault} passes every {dtype} case"
        allowed = spec.tolerances[dtype]
        errors = [r.max_abs_error for r in found if r.max_abs_error is not None]
        assert max(errors, default=np.inf) > 5 * (allowed.atol + allowed.rtol)


def altered(change: Callable[[Array], Any]) -> Verification:
    """SiLU's oracle with its result changed, on a case of 20 rows in float32."""
    spec = SPECS["silu"]
    (case,) = [case for case in spec.cases if case.label == "20 tokens"]
    return verify(spec, case, "float32", lambda x: change(reference.silu(x)))


def _set(array: Array, index: tuple[int, int], value: float) -> Array:
    array[index] = value
    return array


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_finite_number_fails_and_is_located(value: float) -> None:
    result = altered(lambda y: _set(y, (7, 5), value))
    assert not result.passed
    assert "NaN or infinite" in result.message
    assert "(7, 5)" in result.message


def test_worst_elements_are_listed_worst_first() -> None:
    result = altered(lambda y: _set(_set(y, (3, 4), 50.0), (19, 700), 90.0))
    assert not result.passed
    assert result.worst_index == (0, 19, 700)
    lines = result.message.splitlines()
    assert "2 of 15360 elements" in lines[0]
    assert lines[1].strip().startswith("(19, 700): kernel 90.0")
    assert lines[2].strip().startswith("(3, 4): kernel 50.0")


def test_shape_dtype_and_number_of_results_are_compared() -> None:
    assert "(19, 768)" in altered(lambda y: y[:-1]).message
    assert "float64" in altered(lambda y: y.astype(np.float64)).message
    assert "2 results" in altered(lambda y: (y, y)).message
    assert altered(lambda y: [y]).passed


def test_writing_to_an_argument_fails() -> None:
    spec = SPECS["silu"]

    def careless(x: Array) -> Array:
        result = reference.silu(x)
        x[0, 0] += 1
        return result

    result = verify(spec, spec.cases[0], "float32", careless)
    assert not result.passed
    assert "wrote to its arguments ['x']" in result.message
    assert verify(spec, spec.cases[0], "float32", reference.silu).passed


def test_what_a_failing_launch_wrote_reaches_no_other_launch() -> None:
    spec = SPECS["silu"]

    def broken(x: Array) -> Array:
        x[...] = 0
        raise RuntimeError

    with pytest.raises(RuntimeError):
        verify(spec, spec.cases[0], "float32", broken)
    assert verify(spec, spec.cases[0], "float32", reference.silu).passed


def test_updated_arguments_start_anew_in_every_launch() -> None:
    spec = SPECS["attention_decode"]
    case = min(spec.cases, key=lambda case: math.prod(case.shapes["k_cache"]))
    seen: list[bytes] = []

    def launch(**arguments: Any) -> Any:
        seen.append(arguments["k_cache"].tobytes())
        return as_kernel(spec)(**arguments)

    for _ in range(2):
        assert verify(spec, case, "float32", launch).passed
    assert seen[0] == seen[1]


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_ulp_distance_counts_representable_numbers(dtype: Any) -> None:
    step = float(ml_dtypes.finfo(dtype).eps)
    one = np.array([1.0, -1.0, 0.0, 1.0, 2.0], dtype=dtype)
    other = np.array([1.0 + 3 * step, -1.0 - step, -0.0, 1.0 - step, 2.0 - step], dtype=dtype)
    np.testing.assert_array_equal(ulp_distance(one, other), [3, 1, 0, 2, 1])
    np.testing.assert_array_equal(ulp_distance(other, one), [3, 1, 0, 2, 1])
    tiny = np.array([float(ml_dtypes.finfo(dtype).smallest_subnormal)], dtype=dtype)
    np.testing.assert_array_equal(ulp_distance(tiny, -tiny), [2])


def test_ulp_distance_of_unsigned_integers_does_not_wrap() -> None:
    zero, two = np.array([0], dtype=np.uint32), np.array([2], dtype=np.uint32)
    np.testing.assert_array_equal(ulp_distance(zero, two), [2])


def test_integers_are_compared_exactly_whatever_the_tolerance() -> None:
    spec = SPECS["top8"]
    assert spec.tolerances["float32"] != Tolerance(0, 0, "")

    def off_by_one(probabilities: Array) -> tuple[Array, Array]:
        weights, indices = reference.top8(probabilities)
        indices[-1, -1] ^= 1
        return weights, indices

    result = verify(spec, spec.cases[0], "float32", off_by_one)
    assert not result.passed
    assert result.worst_index == (1, 0, 7)


def _refusing(message: str) -> Callable[..., Any]:
    def kernel(**arguments: Any) -> Array:
        raise AssertionError(message)

    return kernel


def test_refusal_needs_an_error_with_the_right_message() -> None:
    spec = SPECS["silu"]
    refusal = Refusal("rank", "x must have 2 dimensions", {"x": (4,)})
    assert verify_refusal(spec, refusal, _refusing("silu: x must have 2 dimensions, ...")).passed
    vague = verify_refusal(spec, refusal, _refusing("bad input"))
    assert not vague.passed
    assert "AssertionError: bad input" in vague.message
    silent = verify_refusal(spec, refusal, lambda x: x)
    assert not silent.passed
    assert "was accepted" in silent.message
