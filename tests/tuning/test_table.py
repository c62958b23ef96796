"""The table of variants: what is fastest, what is broken, the ladders; and variants themselves."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kernels.specs import SPECS
from kernels.variants import TUNED, Variant, name_of, steps, variants
from tuning.evaluation import evaluate
from tuning.table import TIE, TuningError, collect, markdown
from tuning.workloads import PLATFORMS, checked_cases, modelled

DEFAULTS = {kernel: name_of(tuned, tuned.defaults) for kernel, tuned in TUNED.items()}


def result(variant: Variant, time_us: float) -> dict[str, Any]:
    ends = {"low": 0.9 * time_us, "nominal": time_us, "high": 1.2 * time_us}
    time = {"time_us": ends, "kind": "HBM", "bound": "HBM", "bound_us": time_us / 2}
    check = {"case": "a", "dtype": "bfloat16", "passed": True, "max_abs_error": 0.5, "message": ""}
    return {
        "variant": variant.name,
        "kernel": variant.kernel,
        "settings": dict(variant.settings),
        "workload": "a layer",
        "unit": "us per layer",
        "checks": [check],
        "passed": True,
        "problem": "",
        "times": {platform: copy.deepcopy(time) for platform in PLATFORMS},
    }


@pytest.fixture
def results() -> dict[str, dict[str, Any]]:
    """Of all variants; the chosen ones are fastest."""
    return {
        name: result(one, 10.0 if name in DEFAULTS.values() else 12.0)
        for name, one in variants().items()
    }


def faster(one: dict[str, Any], platform: str, time_us: float) -> None:
    one["times"][platform]["time_us"]["nominal"] = time_us


def test_chosen_and_fastest_and_ladder(results: dict[str, dict[str, Any]]) -> None:
    table = collect(list(results.values()))
    assert table["broken"] == []
    for kernel, found in table["kernels"].items():
        assert found["chosen"] == DEFAULTS[kernel]
        assert set(found["fastest"].values()) == {DEFAULTS[kernel]}
        assert not found["kept_although_slower"]
    ladder = table["kernels"]["decoder_stack_ranks"]["ladder"]
    assert ladder[-1]["variant"] == DEFAULTS["decoder_stack_ranks"]
    assert [step["gain_us"]["trn2"] for step in ladder] == [0, *[0] * (len(ladder) - 2), 2]
    assert all(DEFAULTS[kernel] in markdown(table) for kernel in TUNED)


def test_a_faster_variant_needs_a_reason(
    results: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    faster(results["output_projection_prefill__loads-1"], "trn3", 9.99)  # a tie
    collect(list(results.values()))
    faster(results["output_projection_prefill__loads-1"], "trn3", 9.0)
    with pytest.raises(
        TuningError, match="output_projection_prefill on trn3: output_projection_prefill__loads-1"
    ):
        collect(list(results.values()))
    tuned = TUNED["output_projection_prefill"]
    reasoned = type(tuned)(tuned.kernel, tuned.parameters, slower={"trn3": "it is for trn2"})
    monkeypatch.setitem(TUNED, "output_projection_prefill", reasoned)
    found = collect(list(results.values()))["kernels"]["output_projection_prefill"]
    assert found["kept_although_slower"] == {"trn3": "it is for trn2"}
    assert found["fastest"] == {
        "trn2": "output_projection_prefill__default",
        "trn3": "output_projection_prefill__loads-1",
    }


def test_a_broken_variant_is_reported_and_never_the_fastest(
    results: dict[str, dict[str, Any]],
) -> None:
    results["lm_head__buffers-2"] |= {"passed": False, "problem": "off by one", "times": {}}
    table = collect(list(results.values()))
    assert table["broken"] == [{"variant": "lm_head__buffers-2", "problem": "off by one"}]
    assert "broken: off by one" in markdown(table)
    assert table["kernels"]["lm_head"]["fastest"]["trn2"] == "lm_head__default"


def test_a_broken_chosen_variant_or_step_stops(results: dict[str, dict[str, Any]]) -> None:
    broken = {"passed": False, "problem": "off by one", "times": {}}
    chosen = copy.deepcopy(results)
    chosen["lm_head__default"] |= broken
    with pytest.raises(TuningError, match="lm_head__default is the chosen one and wrong"):
        collect(list(chosen.values()))
    results["experts_prefill__buffers-1"] |= broken
    with pytest.raises(TuningError, match="experts_prefill__buffers-1 is a step and wrong"):
        collect(list(results.values()))


def test_a_missing_result_stops(results: dict[str, dict[str, Any]]) -> None:
    del results["lm_head__default"]
    with pytest.raises(TuningError, match="no result of lm_head__default"):
        collect(list(results.values()))


def test_variants_names_and_ladders() -> None:
    assert len(variants()) == len({(*tuple(sorted(v.settings.items())), v.kernel)
                                   for v in variants().values()})  # fmt: skip
    for kernel, tuned in TUNED.items():
        assert kernel == "decoder_stack_ranks" or kernel in SPECS
        assert checked_cases(kernel), kernel
        for one in tuned.parameters:
            assert one.default not in one.others and one.idea
        if tuned.ladder:
            ladder = steps(tuned)
            assert set(ladder[0][1]) == {one.name for one in tuned.parameters}
            assert ladder[-1][1] == tuned.defaults


def test_a_variant_is_evaluated() -> None:
    found = evaluate(variants()["output_projection_prefill__default"])
    assert found["passed"] and not found["problem"]
    assert {one["dtype"] for one in found["checks"]} == {"float32", "bfloat16"}
    for platform in PLATFORMS:
        time = found["times"][platform]["time_us"]
        assert 0 < time["low"] <= time["nominal"] <= time["high"]
        assert found["times"][platform]["bound_us"] <= time["nominal"]


def test_a_refused_variant_says_why_and_has_no_time() -> None:
    broken = Variant("broken", "decoder_stack_ranks", {"prefetch": "never"})
    found = evaluate(broken)
    assert not found["passed"] and found["times"] == {}
    assert 'prefetch must be "none", "early" or "paced", received never' in found["problem"]


def test_a_wrong_variant_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = SPECS["lm_head"].load()
    monkeypatch.setattr("tuning.evaluation.launch_of", lambda *_: lambda **given: kernel[2](
        **given | {"norm_weight": 2 * given["norm_weight"]}))  # fmt: skip
    found = evaluate(variants()["lm_head__default"])
    assert not found["passed"] and found["times"] == {}
    assert "beyond tolerance" in found["problem"]


def test_the_chosen_decoder_beats_loads_in_their_turn() -> None:
    tuned = TUNED["decoder_stack_ranks"]
    plain = modelled(tuned.kernel, steps(tuned)[0][1])
    chosen = modelled(tuned.kernel, tuned.defaults)
    for platform in PLATFORMS:
        assert chosen[platform].time_us.nominal < 0.9 * plain[platform].time_us.nominal


@pytest.mark.parametrize("kernel", ["lm_head", "output_projection_prefill"])
def test_the_chosen_values_are_the_fastest_or_there_is_a_reason(kernel: str) -> None:
    tuned = TUNED[kernel]
    times = {
        name: modelled(kernel, one.settings)
        for name, one in variants().items()
        if one.kernel == kernel
    }
    for platform in PLATFORMS:
        nominal = {name: one[platform].time_us.nominal for name, one in times.items()}
        slower = nominal[DEFAULTS[kernel]] > min(nominal.values()) * (1 + TIE)
        assert slower == (platform in tuned.slower), nominal
