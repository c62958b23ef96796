"""Launching kernels: calling forms, arguments, results, in-place updates, torch."""

from __future__ import annotations

import ml_dtypes
import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest
import torch

from nki_sim.errors import IllegalProgram, SimulationError

from .support import loaded, stored


def double(x, factor=2.0):
    """A kernel as a plain function."""
    tile = loaded(x)
    nisa.tensor_scalar(dst=tile, data=tile, op0=nl.multiply, operand0=factor)
    return stored(tile)


ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_calling_forms() -> None:
    bare, called, applied = nki.jit(double), nki.jit()(double), nki.jit(mode="auto")(double)
    launches = (
        bare,
        called,
        applied,
        bare[1],
        bare[(1,)],
        nki.simulate(double),
        nki.simulate(bare),
    )
    for kernel in launches:
        np.testing.assert_array_equal(kernel(ARRAY), ARRAY * 2)
        np.testing.assert_array_equal(kernel(x=ARRAY, factor=3.0), ARRAY * 3)
    assert bare.__name__ == "double" and bare.__doc__ == double.__doc__
    assert nki.jit(bare) is bare


def test_grid_queries() -> None:
    seen = []

    def kernel():
        seen.append((nl.program_id(0), nl.num_programs(0), nl.program_ndim()))

    nki.jit(kernel)()
    nki.jit(kernel)[1]()
    assert seen == [(0, 1, 0), (0, 1, 1)]
    with pytest.raises(IllegalProgram, match="1 or 2 cores"):
        nki.jit(kernel)[3]


def test_a_kernel_inside_a_kernel_is_a_function() -> None:
    inner = nki.jit(double)

    @nki.jit
    def outer(x):
        return inner(inner[1](x))

    np.testing.assert_array_equal(outer(ARRAY), ARRAY * 4)


def test_results_are_single_tuple_or_list() -> None:
    def two(x):
        return double(x), double(x, 3.0)

    def as_list(x):
        return [double(x)]

    first, second = nki.jit(two)(ARRAY)
    np.testing.assert_array_equal(second - first, ARRAY)
    assert isinstance(nki.jit(as_list)(ARRAY), list)
    with pytest.raises(IllegalProgram, match="returns tensors"):
        nki.jit(lambda x: 3)(ARRAY)


def bump(cache):
    nisa.dma_copy(dst=cache[0:1], src=double(cache)[2:3])
    return cache


@pytest.mark.parametrize("array", [ARRAY.copy(), np.asfortranarray(ARRAY)])
def test_inputs_written_in_place(array: np.ndarray) -> None:
    result = nki.jit(bump)(array)
    assert result is array
    np.testing.assert_array_equal(array[0], ARRAY[2] * 2)
    np.testing.assert_array_equal(array[1:], ARRAY[1:])


def test_read_only_inputs_may_not_be_written() -> None:
    frozen = ARRAY.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(nki.jit(double)(frozen), ARRAY * 2)
    with pytest.raises(IllegalProgram, match="read-only"):
        nki.jit(bump)(frozen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int32])
def test_torch_round_trip(dtype: torch.dtype) -> None:
    given = torch.arange(12).reshape(3, 4).to(dtype)
    result = nki.jit(double)(given)
    assert isinstance(result, torch.Tensor) and result.dtype is dtype
    assert torch.equal(result, given * 2)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bool, torch.uint8])
def test_torch_types_without_numpy_equivalent(dtype: torch.dtype) -> None:
    given = torch.tensor([[0, 1], [1, 0]]).to(dtype)
    result = nki.jit(lambda x: stored(loaded(x)))(given)
    assert result.dtype is dtype
    assert torch.equal(result.to(torch.int32), given.to(torch.int32))


def test_torch_in_place_views_and_gradients() -> None:
    base = torch.zeros(4, 3, dtype=torch.bfloat16)
    view = base.t()
    view += torch.arange(12).reshape(3, 4)
    assert nki.jit(bump)(view) is view
    assert torch.equal(base[:, 0].float(), torch.arange(8, 12) * 2.0)
    weight = torch.nn.Parameter(torch.ones(2, 2))
    assert torch.equal(nki.jit(double)(weight), torch.full((2, 2), 2.0))


@pytest.mark.parametrize(
    ("argument", "fragment"),
    [
        (np.zeros((2, 2)), "no data type float64"),
        (torch.zeros(2, 2, dtype=torch.int64), "no data type int64"),
        (torch.zeros(2, 2, dtype=torch.complex64), "type of the device"),
        (np.float32(1), "constant"),
        ([ARRAY], "pass a tuple"),
        (np.array(1.0, np.float32), "has a dimension"),
        (np.zeros((0, 3), np.float32), "elements"),
        (torch.empty(2, 2, device="meta"), "on the CPU"),
    ],
)
def test_illegal_arguments(argument: object, fragment: str) -> None:
    with pytest.raises(IllegalProgram, match=fragment):
        nki.jit(double)(argument)


def test_wrong_calls_name_the_parameters() -> None:
    with pytest.raises(IllegalProgram, match=r"called as \(x, factor=2.0\)"):
        nki.jit(double)(ARRAY, wrong=1)
    with pytest.raises(IllegalProgram, match="dst, src, priority, oob_mode"):
        nki.jit(lambda x: nisa.dma_copy(dst=x, src=x, mask=None))(ARRAY)
    with pytest.raises(IllegalProgram, match="missing a required argument: 'src'"):
        nki.jit(lambda x: nisa.dma_copy(dst=x))(ARRAY)


def test_instructions_need_a_kernel() -> None:
    with pytest.raises(IllegalProgram, match="only a running kernel"):
        nl.ndarray((2, 2), dtype=nl.float32)


def test_an_error_ends_the_launch() -> None:
    with pytest.raises(ZeroDivisionError):
        nki.jit(lambda: 1 // 0)()
    with pytest.raises(IllegalProgram, match="only a running kernel"):
        nl.program_id(0)


def test_imprecise_mode_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    """NKI_PRECISE_FP=0 changes what happens inside, not the types at the border."""
    monkeypatch.setenv("NKI_PRECISE_FP", "0")
    given = ARRAY.astype(ml_dtypes.bfloat16)
    result = nki.jit(double)(given)
    assert result.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(result, given * 2)
    nki.jit(bump)(given)
    np.testing.assert_array_equal(given[0].astype(np.float32), ARRAY[2] * 2)


def test_errors_have_four_parts() -> None:
    with pytest.raises(SimulationError) as caught:
        nki.jit(lambda x: nisa.tensor_copy(dst=x, src=x))(ARRAY)
    error = caught.value
    assert error.operation == "tensor_copy"
    assert "must be in sbuf or psum" in error.rule
    assert "(3, 4) float32 in shared_hbm" in error.received
    assert "dma_copy" in error.remedy
    assert str(error) == f"tensor_copy: {error.rule}; received {error.received}; {error.remedy}"
