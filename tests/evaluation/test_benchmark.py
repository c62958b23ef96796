"""Timing keeps every sample; statistics and throughput are the challenge's."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.benchmark import run_benchmark, summarise_ms, throughput_tok_s


def test_warm_up_runs_are_made_but_not_kept() -> None:
    calls: list[int] = []
    lines: list[str] = []
    samples, results = run_benchmark(lambda: calls.append(1) or len(calls), 2, 3, lines.append)
    assert len(calls) == 5 and results == [3, 4, 5]
    assert len(samples.end_to_end_s) == 3 and min(samples.end_to_end_s) >= 0
    assert lines[0] == "warm-up 1/2" and lines[-1] == "timed run 3/3"


@pytest.mark.parametrize(("warmup", "timed"), [(-1, 3), (1, 0)])
def test_meaningless_counts_are_refused(warmup: int, timed: int) -> None:
    with pytest.raises(ValueError, match="expected warmup_runs"):
        run_benchmark(lambda: None, warmup, timed)


def test_statistics_are_numpys() -> None:
    samples = [float(value) for value in np.random.default_rng(5).uniform(10, 20, 20)]
    statistics = summarise_ms(samples)
    assert statistics.mean_ms == pytest.approx(sum(samples) / 20)
    assert statistics.p50_ms == pytest.approx(np.median(samples))
    ordered = sorted(samples)
    assert statistics.p99_ms == pytest.approx(ordered[-2] + 0.81 * (ordered[-1] - ordered[-2]))


def test_throughput_times_mean_is_the_sequence_length() -> None:
    samples = [11.0, 12.0, 16.0]
    assert throughput_tok_s(samples, 640) * 13.0 == pytest.approx(640)
    assert throughput_tok_s(samples, 640, batch_size=2) * 13.0 == pytest.approx(1280)


def test_nothing_has_no_statistics() -> None:
    with pytest.raises(ValueError, match="no samples"):
        summarise_ms([])
    with pytest.raises(ValueError, match="no samples"):
        throughput_tok_s([], 640)
