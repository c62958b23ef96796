"""Timing as the challenge does it: warm-up, n timed runs, every sample kept, statistics derived."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Result = TypeVar("Result")
Progress = Callable[[str], None]
"""Receives one line of text at each step of something long."""


@dataclass(frozen=True)
class Samples:
    """Wall-clock time of each timed run, in seconds and in the order they ran."""

    end_to_end_s: tuple[float, ...]


@dataclass(frozen=True)
class Statistics:
    """Mean and percentiles of a set of times, in milliseconds."""

    mean_ms: float
    p50_ms: float
    p99_ms: float


def run_benchmark(
    function: Callable[[], Result],
    warmup_runs: int,
    timed_runs: int,
    progress: Progress = lambda line: None,
) -> tuple[Samples, list[Result]]:
    """Call `function` and time it; return all samples and the results of the timed runs.

    The warm-up runs come first and are not kept. `progress` receives a line before each run.
    Raises ValueError unless warmup_runs >= 0 and timed_runs >= 1.
    """
    if warmup_runs < 0 or timed_runs < 1:
        raise ValueError(
            f"expected warmup_runs >= 0 and timed_runs >= 1, received {warmup_runs}, {timed_runs}"
        )
    for run in range(warmup_runs):
        progress(f"warm-up {run + 1}/{warmup_runs}")
        function()
    times_s: list[float] = []
    results: list[Result] = []
    for run in range(timed_runs):
        progress(f"timed run {run + 1}/{timed_runs}")
        start = time.perf_counter()
        results.append(function())
        times_s.append(time.perf_counter() - start)
    return Samples(tuple(times_s)), results


def summarise_ms(samples_ms: Sequence[float]) -> Statistics:
    """Return mean, median and 99th percentile (linear interpolation, as the challenge's report).

    Up to 101 samples the 99th percentile lies between the largest and the second largest: at the
    challenge's 20 it is nearly the maximum, a weak estimate of a tail.
    """
    if not samples_ms:
        raise ValueError("no samples: statistics of nothing are undefined")
    values = np.asarray(samples_ms, np.float64)
    return Statistics(
        mean_ms=float(np.mean(values)),
        p50_ms=float(np.percentile(values, 50)),
        p99_ms=float(np.percentile(values, 99)),
    )


def throughput_tok_s(
    samples_s: Sequence[float], sequence_length: int, batch_size: int = 1
) -> float:
    """Return the challenge's throughput, n * sequence length * batch size / sum of times.

    It counts prompt tokens as if they were generated and ignores how many tokens were, so it is
    the sequence length over the mean latency: throughput x mean = sequence length x batch size.
    """
    if not samples_s:
        raise ValueError("no samples: the throughput of nothing is undefined")
    return len(samples_s) * sequence_length * batch_size / float(np.sum(samples_s))
