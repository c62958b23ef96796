"""Statistics of small samples: right, deterministic, recomputed, and only where samples are."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.bootstrap import interval, means, p99s, resampled, sign_test, tail
from evaluation.records import validate
from evaluation.uncertainty import NoStatistics, add_statistics, statistics_of

from . import result_files

Record = dict[str, Any]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return result_files.make(tmp_path_factory.mktemp("results")).record()


@pytest.fixture
def device(simulated: Record) -> Record:
    return result_files.on_a_device(simulated)


def test_the_same_samples_give_the_same_resamples() -> None:
    drawn = resampled([1.0, 2.0, 4.0], 7, 0, 1, resamples=4)
    assert drawn.tolist() == resampled([1.0, 2.0, 4.0], 7, 0, 1, resamples=4).tolist()
    assert drawn.tolist() != resampled([1.0, 2.0, 4.0], 7, 0, 2, resamples=4).tolist()
    # As drawn once: a NumPy that draws otherwise would change every interval on record.
    assert resampled(range(10), 0, resamples=1).tolist() == [[2, 5, 4, 2, 5, 8, 3, 9, 0, 9]]


def test_an_interval_of_a_mean_is_that_of_theory() -> None:
    samples = np.random.RandomState(1).normal(100.0, 10.0, 400)
    low, high = interval(means(resampled(samples, 0)))
    error = float(samples.std(ddof=1)) / 20.0
    assert low == pytest.approx(samples.mean() - 1.96 * error, abs=0.1)
    assert high == pytest.approx(samples.mean() + 1.96 * error, abs=0.1)


def test_an_interval_of_the_mean_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.RandomState(3)
    held = 0
    for seed in range(200):
        low, high = interval(means(resampled(rng.normal(0.0, 1.0, 20), seed, resamples=1000)))
        held += low <= 0.0 <= high
    assert 0.85 <= held / 200 <= 0.98, "the percentile method falls a little short at n = 20"


def test_the_percentile_cannot_exceed_the_largest_sample() -> None:
    samples = [float(value) for value in range(1, 21)]
    low, high = interval(p99s(resampled(samples, 0)))
    assert low < np.percentile(samples, 99) < high <= 20.0


def test_what_the_percentile_of_twenty_runs_is_worth() -> None:
    worth = tail(20)
    samples = [float(value**2) for value in range(20)]
    weight = worth["weight_of_maximum"]
    assert weight == pytest.approx(0.81)
    mixed = weight * samples[-1] + (1 - weight) * samples[-2]
    assert mixed == pytest.approx(np.percentile(samples, 99))
    assert worth["probability_of_reaching_p99"] == pytest.approx(0.1821, abs=1e-4)
    assert (
        tail(298)["probability_of_reaching_p99"] < 0.95 < tail(299)["probability_of_reaching_p99"]
    )
    assert tail(1)["weight_of_maximum"] == 1.0 and tail(500)["weight_of_maximum"] == 0.0


@pytest.mark.parametrize(
    ("wins", "losses", "p"), [(5, 0, 0.0625), (0, 5, 0.0625), (4, 1, 0.375), (1, 1, 1.0), (0, 0, 1)]
)
def test_the_sign_test(wins: int, losses: int, p: float) -> None:
    assert sign_test(wins, losses) == pytest.approx(p)


def test_a_device_has_statistics_around_its_figures(device: Record) -> None:
    statistics = device["statistics"]
    for prompt, stated in zip(device["per_prompt_results"], statistics["per_prompt"], strict=True):
        for side in ("baseline", "nki"):
            for name, of in (
                ("latency_interval_ms", "latency_ms"),
                ("throughput_interval_tok_s", "throughput_tok_s"),
                ("score_interval", "score"),
            ):
                low, high = stated[side][name]
                assert low <= prompt[side][of] <= high and low < high
    for name in ("baseline_total_score", "nki_total_score", "improvement_percent"):
        low, high = statistics["totals"][f"{name}_interval"]
        assert low <= device["summary"][name] <= high
    comparison = statistics["comparison"]
    assert comparison["prompts_faster"] == 2 and comparison["sign_test_p"] == 0.5
    assert comparison["geometric_mean_speedup"] == pytest.approx(1.25)
    for prompt in comparison["per_prompt"]:
        assert prompt["share_of_pairs_faster"] == 1.0
        low, high = prompt["speedup_interval"]
        assert 1.2 < low < prompt["speedup"] < high < 1.3


def test_equal_runs_show_no_difference(simulated: Record) -> None:
    comparison = result_files.on_a_device(simulated, gain=1.0)["statistics"]["comparison"]
    assert (comparison["prompts_faster"], comparison["prompts_slower"]) == (0, 0)
    for prompt in comparison["per_prompt"]:
        low, high = prompt["speedup_interval"]
        assert low < 1.0 < high


def test_a_failing_prompt_scores_exactly_nothing(device: Record) -> None:
    device["per_prompt_results"][0]["nki"]["score"] = 0.0
    first = statistics_of(device, True)["per_prompt"][0]["nki"]
    assert first["score_interval"] == [0.0, 0.0]


@pytest.mark.parametrize(
    "path",
    [
        "statistics.per_prompt[0].nki.latency_interval_ms[1]", "statistics.tail.runs",
        "statistics.comparison.geometric_mean_speedup", "statistics.comparison.sign_test_p",
        "statistics.totals.improvement_percent_interval[0]",
    ],
)  # fmt: skip
def test_a_changed_statistic_is_found(device: Record, path: str) -> None:
    place: Any = device
    *steps, last = path.replace("[", ".").replace("]", "").split(".")
    for step in steps:
        place = place[int(step) if step.isdecimal() else step]
    key = int(last) if last.isdecimal() else last
    place[key] = place[key] * 0.5
    assert path in [problem.path for problem in validate(device)]


def test_a_removed_statistic_is_found(device: Record) -> None:
    del device["statistics"]["comparison"]
    assert "statistics.comparison" in [problem.path for problem in validate(device)]
    del device["statistics"]
    assert [problem.path for problem in validate(device)] == ["statistics"]


def test_a_simulator_has_none(simulated: Record, device: Record) -> None:
    assert "statistics" not in simulated
    forged = copy.deepcopy(simulated) | {"statistics": device["statistics"]}
    assert "a simulator measures no device" in [problem.rule for problem in validate(forged)]


def test_modelled_latencies_have_none(device: Record) -> None:
    device["per_prompt_results"][0]["nki"]["latency"]["basis"] = "modelled"
    with pytest.raises(NoStatistics, match="not every latency is measured"):
        statistics_of(device, True)
    problems = [p for p in validate(device) if p.rule == "statistics follow from samples"]
    assert [problem.path for problem in problems] == ["statistics"]


def test_sides_of_two_machines_are_not_compared(device: Record) -> None:
    del device["statistics"]
    add_statistics(device, [{"cpu": "one"}, {"cpu": "other"}])
    assert "comparison" not in device["statistics"] and validate(device) == []
    assert device["absent"] == [
        {"key": "statistics.comparison", "reason": "the sides ran on different machines"}
    ]


def test_four_runs_have_no_interval(device: Record) -> None:
    for prompt in device["per_prompt_results"]:
        del prompt["nki"]["latency"]["samples_ms"][4]
    with pytest.raises(NoStatistics, match=r"4 timed run\(s\); an interval takes at least 5"):
        statistics_of(device, True)


def test_aggregation_adds_them_or_says_why(tmp_path: Path) -> None:
    record = result_files.make(tmp_path, "neuron").record()
    reasons = {entry["key"]: entry["reason"] for entry in record["absent"]}
    assert reasons["statistics"].startswith("3 timed run(s)")
    files = record["provenance"]["results"]
    assert (
        "results/evaluations/nki/prompt_0.json" in files and "results/model_manifest.json" in files
    )
