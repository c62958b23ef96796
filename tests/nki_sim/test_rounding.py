"""The rounding report, on kernels of which it is known what costs what."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest

from benchmarks import kernels
from nki_sim import rounding
from nki_sim.dtypes import FLOATS, TABLE
from nki_sim.errors import NotModelled

from .support import loaded, stored


def source_line(report: rounding.Report, fragment: str) -> rounding.Line:
    (found,) = [line for line in report.lines if fragment in line.source]
    return found


@nki.jit
def running_sum(x):
    """Sums 64 columns into a bf16 tile: that is the culprit; the last scaling is harmless."""
    data = loaded(x)
    total = nl.ndarray((4, 1), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.memset(dst=total, value=0.0)
    for k in range(64):
        column = data[:, k : k + 1]
        nisa.tensor_tensor(dst=total, data1=total, data2=column, op=nl.add)  # the culprit
    half = nl.ndarray((4, 1), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.tensor_scalar(dst=half, data=total, op0=nl.multiply, operand0=0.3)  # harmless
    return stored(half)


def test_the_culprit_is_named() -> None:
    x = np.random.default_rng(0).uniform(1, 2, (4, 64)).astype(np.float32)
    report = rounding.report(running_sum, x)
    assert [("culprit" in one.source, "harmless" in one.source) for one in report.lines] == [
        (True, False), (False, True),
    ]  # fmt: skip
    culprit, harmless = report.lines
    assert (culprit.opcode, culprit.dtype, culprit.writes) == ("tensor_tensor", "bfloat16", 64)
    assert culprit.elements == 256 and 0 < culprit.rounded <= 256
    assert culprit.largest <= 0.5 and 0 < culprit.mean < culprit.largest
    assert culprit.alone is not None and harmless.alone is not None
    assert culprit.alone[0] > 4 * harmless.alone[0] > 0
    (output,) = report.outputs
    assert output.largest > 1 and output.differing == 4 and output.dtype == "bfloat16"
    assert report.unexplained == 0
    function = running_sum.function
    assert culprit.file == __file__
    assert 0 < culprit.line - function.__code__.co_firstlineno < harmless.line


def test_the_end_to_end_error_is_that_of_the_two_runs() -> None:
    x = np.random.default_rng(1).uniform(1, 2, (4, 64)).astype(np.float32)
    exact = x.sum(axis=1, keepdims=True) * 0.3
    (output,) = rounding.report(running_sum, x).outputs
    got = running_sum(x).astype(np.float64)
    assert output.absolute == pytest.approx(np.abs(got - exact).max(), rel=1e-4)
    relative = np.sqrt(np.mean((got - exact) ** 2) / np.mean(exact**2))
    assert output.relative == pytest.approx(relative, rel=1e-3)
    assert output.largest == pytest.approx(np.abs((got - exact) / 0.125).max(), rel=1e-3)


def test_fp32_kernels_have_nothing_to_report() -> None:
    x = np.random.default_rng(2).standard_normal((128, 128)).astype(np.float32)
    report = rounding.report(kernels.matmul, x, x)
    assert report.lines == [] and report.outputs[0].largest == 0
    assert "0 lines round" in str(report)


def test_overflow_is_counted_apart() -> None:
    @nki.jit
    def squares(x):
        small = nl.ndarray(x.shape, dtype=nl.float16, buffer=nl.sbuf)
        nisa.activation(dst=small, op=nl.square, data=loaded(x))
        return stored(small)

    report = rounding.report(squares, np.array([[1.0, 1000.0, 3.0]], np.float32))
    (line,) = report.lines
    assert (line.overflowed, line.rounded, line.largest) == (1, 1, 0)
    assert report.outputs[0].overflowed == 1
    assert "1 overflowed" in str(report)


def test_the_moe_layer_is_explained() -> None:
    inputs = kernels.moe_inputs(experts=16, hidden=512, inner=160)
    report = rounding.report(kernels.moe_decode, *inputs)
    assert {one.opcode for one in report.lines} == {"scalar_tensor_tensor", "tensor_tensor"}
    shares = [one.alone[0] for one in report.lines if one.alone]
    assert report.unexplained < 0.1
    assert np.hypot(*shares) == pytest.approx(report.outputs[0].relative, rel=0.5)
    text = str(report)
    assert "kernels.py:" in text and "data1=g, data2=u" in text and "unexplained" not in text
    json.dumps(report.as_dict())


def test_only_what_an_instruction_wrote_is_rounded() -> None:
    """A predicated copy rounds the elements that it takes, and no others."""

    @nki.jit
    def mixed(x, y, mask):
        low = nl.ndarray(x.shape, dtype=nl.bfloat16, buffer=nl.sbuf)
        nisa.dma_copy(dst=low, src=x)
        other = nl.ndarray(x.shape, dtype=nl.bfloat16, buffer=nl.sbuf)
        nisa.dma_copy(dst=other, src=y)
        nisa.tensor_copy_predicated(dst=low, src=other, predicate=loaded(mask))
        return stored(low)

    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((2, 4, 8)).astype(np.float32)
    report = rounding.report(mixed, x, y, np.tile(np.array([0, 1], np.uint8), (4, 4)))
    first, second = source_line(report, "src=x"), source_line(report, "src=y")
    assert len(report.lines) == 2 and first.alone and second.alone
    assert np.hypot(first.alone[0], second.alone[0]) == pytest.approx(
        report.outputs[0].relative, rel=1e-6
    )


def test_inputs_stay_as_they_are() -> None:
    @nki.jit
    def update(x):
        t = loaded(x)
        nisa.tensor_scalar(dst=t, data=t, op0=nl.multiply, operand0=1.7)
        nisa.dma_copy(dst=x, src=t)
        return x

    x = np.full((4, 4), 3, ml_dtypes.bfloat16)
    report = rounding.report(update, x)
    assert (x == 3).all()
    assert report.lines[0].opcode == "tensor_scalar" and report.outputs[0].differing == 0
    torch = pytest.importorskip("torch")
    given = torch.full((4, 4), 3, dtype=torch.bfloat16)
    assert str(rounding.report(update, given)) == str(report)
    assert (given == 3).all()


def test_attribution_can_be_limited() -> None:
    x = np.random.default_rng(0).uniform(1, 2, (4, 64)).astype(np.float32)
    report = rounding.report(running_sum, x, attributed=1)
    assert sum(one.alone is None for one in report.lines) == 1


def test_bits_are_not_modelled_at_full_precision() -> None:
    @nki.jit
    def bits(x):
        return stored(loaded(x).view(nl.uint16))

    with pytest.raises(NotModelled, match="no bits to reinterpret"):
        rounding.report(bits, np.ones((4, 4), ml_dtypes.bfloat16))


@pytest.mark.parametrize("dtype", FLOATS)
def test_spacing_is_the_distance_to_the_next_number(dtype: str) -> None:
    kind = TABLE[dtype].numpy
    width = f"uint{8 * kind.itemsize}"
    if kind.itemsize == 4:
        bits = np.random.default_rng(0).integers(0, 0x7F000000, 1000, dtype=width)
    else:
        bits = np.arange(1 << (8 * kind.itemsize - 1), dtype=width)
    with np.errstate(all="ignore"):
        numbers = bits.view(kind).astype(np.float64)
        following = (bits + 1).astype(width).view(kind).astype(np.float64)
        gaps = following - numbers
    use = np.isfinite(gaps) & (gaps > 0)
    got: Any = rounding.spacing(numbers[use], dtype)
    np.testing.assert_array_equal(got, gaps[use])
