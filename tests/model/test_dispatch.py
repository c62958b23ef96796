"""Eligibility, counting and fallbacks, and that the plain operations are the kernels' own."""

from __future__ import annotations

import logging

import ml_dtypes
import numpy as np
import pytest
import torch

from kernels.specs.rows import ROW_KERNELS
from model import dispatch, plain

SPECS = {spec.name: spec for spec in ROW_KERNELS}


def to_torch(array: np.ndarray) -> torch.Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(array)


def arguments(spec, case, dtype, seed=0):
    inputs = spec.inputs(case, dtype, seed)
    tensors = [to_torch(value) for value in inputs.values() if isinstance(value, np.ndarray)]
    scalars = {n: value for n, value in inputs.items() if not isinstance(value, np.ndarray)}
    return inputs, tensors, scalars


@pytest.mark.parametrize("name", SPECS)
def test_every_declared_case_is_eligible(name):
    for case in SPECS[name].cases:
        for dtype in SPECS[name].dtypes:
            if max(np.prod(shape) for shape in case.shapes.values()) < 2**20:
                _, tensors, _ = arguments(SPECS[name], case, dtype)
                assert dispatch.why_not(name, *tensors) is None, (case.label, dtype)


@pytest.mark.parametrize(
    ("name", "shapes", "dtype", "reason"),
    [
        ("rmsnorm", [(2, 6145), (6145,)], torch.float32, "6145"),
        ("add_rmsnorm", [(2, 6145), (2, 6145), (6145,)], torch.float32, "6145"),
        ("softmax", [(2, 6145)], torch.bfloat16, "6145"),
        ("router_softmax", [(2, 6145)], torch.float32, "6145"),
        ("top8", [(2, 6145)], torch.float32, "6145"),
        ("rope", [(2, 64, 128), (2, 128), (2, 128)], torch.float32, "8192"),
        ("silu", [(2, 64)], torch.float16, "float16"),
        ("top8", [(2, 16)], torch.bfloat16, "bfloat16"),
        ("top8", [(2, 4)], torch.float32, "4 experts"),
        ("expert_aggregation", [(2, 4, 16), (2, 4)], torch.float32, "4 experts"),
    ],
)
def test_what_a_kernel_cannot_take_has_a_reason(name, shapes, dtype, reason):
    assert reason in dispatch.why_not(name, *(torch.ones(s, dtype=dtype) for s in shapes))


def test_the_row_limit_is_the_kernels():
    from kernels.nki_common import ROW_LIMIT

    assert dispatch.LONGEST_ROW == ROW_LIMIT


def test_a_fallback_computes_the_same_is_recorded_once_and_counts_as_no_launch(caplog):
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).half()
    with caplog.at_level(logging.WARNING), dispatch.counting() as launched:
        for _ in range(2):
            result = dispatch.run("silu", x)
    assert torch.equal(result, torch.nn.functional.silu(x))
    assert [kernel for kernel, _ in dispatch.fallbacks()] == ["silu"]
    assert "float16" in dispatch.fallbacks()[0].reason
    assert len(caplog.records) == 1
    assert not launched
    dispatch.forget_fallbacks()
    assert dispatch.fallbacks() == []


def test_counters_nest_and_end():
    x = torch.ones(2, 4)
    with dispatch.counting() as outer:
        dispatch.run("silu", x)
        with dispatch.counting() as inner:
            dispatch.run("silu", x)
        dispatch.run("softmax", x)
    dispatch.run("silu", x)
    assert outer == {"silu": 2, "softmax": 1}
    assert inner == {"silu": 1}


def test_a_kernels_own_refusal_is_an_error_and_no_fallback():
    with pytest.raises(AssertionError, match="weight must have shape"):
        dispatch.run("rmsnorm", torch.ones(2, 8), torch.ones(4), eps=1e-6)
    assert dispatch.fallbacks() == []


def test_tensors_reach_the_kernel_contiguous_and_without_gradients():
    x = torch.arange(12.0).reshape(3, 4)
    weight = torch.nn.Parameter(torch.ones(3))
    result = dispatch.launch("rmsnorm", x.T, weight, eps=1e-6)
    assert torch.allclose(result, plain.rmsnorm(x.T, weight.detach(), 1e-6), rtol=1e-5)


def test_every_row_kernel_has_a_plain_operation():
    assert set(plain.OPERATIONS) == set(SPECS)


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, dtype) for name, spec in SPECS.items() for dtype in spec.dtypes]
)
def test_the_plain_operation_is_the_kernels(name, dtype):
    spec = SPECS[name]
    inputs, tensors, scalars = arguments(spec, spec.cases[-1], dtype)
    expected = spec.reference(**inputs)
    actual = plain.OPERATIONS[name](*tensors, **scalars)
    if not isinstance(actual, tuple):
        actual, expected = (actual,), (expected,)
    tolerance = spec.tolerances[dtype]
    for ours, oracle in zip(actual, expected, strict=True):
        np.testing.assert_allclose(
            ours.double().numpy(),
            oracle.astype(np.float64),
            rtol=2 * tolerance.rtol,
            atol=2 * tolerance.atol,
        )


def test_the_longest_row_is_the_kernels_own() -> None:
    from kernels.nki_common import ROW_LIMIT

    assert dispatch.LONGEST_ROW == ROW_LIMIT
