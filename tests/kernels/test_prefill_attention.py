"""The prefill attention block beyond its cases: padding, overflow, work done, capacity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import nki_sim
from kernels.nki_prefill_attention_kernels import nki_attention_prefill_kernel
from kernels.specs import DTYPES, SPECS, Case
from kernels.specs.prefill_attention import PREFILL_ATTENTION_KERNELS
from nki_sim.modes import SHAPES, mode

LONGEST = 640  # the largest bucket


def attention_inputs(tokens: int, dtype: str, heads: int = 2) -> dict[str, Any]:
    rng = np.random.default_rng(tokens)
    shapes = {"q": (heads, 16, tokens), "k": (1, 16, tokens), "v": (1, tokens, 16)}
    return {
        name: rng.standard_normal(shape).astype(DTYPES[dtype]) for name, shape in shapes.items()
    }


@pytest.mark.parametrize("rounding", ["fused", "stepwise"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("length", [1, 100, 128, 200])
def test_padding_on_the_right_changes_no_real_token(length: int, dtype: str, rounding: str) -> None:
    short = attention_inputs(256, dtype)
    padded = {name: array.copy() for name, array in short.items()}
    padded["q"][:, :, length:] = 50.0
    padded["k"][:, :, length:] = -60.0
    padded["v"][:, length:] = 1e4
    results = [nki_attention_prefill_kernel(**one, rounding=rounding) for one in (short, padded)]
    np.testing.assert_array_equal(results[0][:, :, :length], results[1][:, :, :length])
    assert np.all(np.isfinite(results[1].astype(np.float32)))


@pytest.mark.parametrize("rounding", ["fused", "stepwise"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_scores_may_be_so_large_that_exponentials_overflow(sign: float, rounding: str) -> None:
    """Scores of about 400 in every block, growing or falling from key to key."""
    inputs = attention_inputs(700, "float32")
    inputs["q"] += 40.0
    inputs["k"] += sign * np.linspace(1.0, 3.0, 700, dtype=np.float32)
    expected = SPECS["attention_prefill"].reference(**inputs, rounding=rounding)
    actual = nki_attention_prefill_kernel(**inputs, rounding=rounding)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("tokens", [20, 128, 300, LONGEST])
def test_blocks_of_the_future_are_not_computed(tokens: int) -> None:
    inputs = attention_inputs(tokens, "bfloat16")
    with nki_sim.record() as recording, mode(SHAPES):
        nki_attention_prefill_kernel(**inputs)
    (launch,) = recording.launches
    pairs = 0
    for first in range(0, tokens, 128):
        count = min(128, tokens - first)
        pairs += count * (first + count)
    assert launch.macs == 2 * pairs * 16 * 2  # scores and weighted values of 2 heads of 16


def test_two_cores_refuse_one_token_of_heads_that_do_not_divide() -> None:
    spec = SPECS["qkv_prefill"]
    one = next(case for case in spec.cases if case.label == "257 tokens, 3 heads")
    inputs = spec.inputs(one, "float32")
    for name in ("x", "residual", "cos", "sin"):
        inputs[name] = inputs[name][:1]
    with pytest.raises(AssertionError, match="launch it on one core"):
        spec.load()[2](**inputs)
    assert spec.load()(**inputs)[0].shape == (3, 16, 1)


def longest(case: Case) -> Case:
    """The same case with as many tokens as the largest bucket has."""
    names = {"x": 0, "residual": 0, "cos": 0, "sin": 0, "q": 2, "k": 2, "v": 1, "attended": 2}
    shapes = {}
    for name, shape in case.shapes.items():
        sizes = list(shape)
        if name in names:
            sizes[names[name]] = LONGEST
        shapes[name] = tuple(sizes)
    return replace(case, shapes=shapes)


@pytest.mark.parametrize("platform", ["trn2", "trn3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("spec", PREFILL_ATTENTION_KERNELS, ids=lambda spec: spec.name)
def test_the_largest_bucket_fits_on_chip(
    spec: Any, dtype: str, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 1, 2 and 4 ranks of one or two cores each: more would be refused."""
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", platform)
    seen = []
    for case in spec.cases:
        shapes, constants = longest(case).shapes, {**spec.scalars, **case.scalars}
        if case.kind == "model" or case.label == "odd sizes" or (shapes, constants) in seen:
            continue
        seen.append((shapes, constants))
        arguments = {name: np.zeros(shape, DTYPES[dtype]) for name, shape in shapes.items()}
        for cores in (1, 2):
            with mode(SHAPES):
                spec.load()[cores](**arguments, **constants)
