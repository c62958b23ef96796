"""The record's `statistics`: how far its measured figures may be chance.

Only latencies measured on a device have them. Samples are resampled per prompt and side; from the
same resamples follow latency, throughput, score, their ratios and the totals. Baseline and NKI run
one after the other on one machine, so their runs have no partners: within a prompt both sides are
resampled independently, and the pair of the paired comparison is the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.benchmark import summarise_ms
from evaluation.bootstrap import (
    CONFIDENCE,
    LEAST_SAMPLES,
    RESAMPLES,
    Values,
    interval,
    means,
    p99s,
    resampled,
    sign_test,
    tail,
)
from evaluation.problems import (
    Problem,
    is_number,
    lookup,
    members,
    number,
    numbers,
    shown,
    walk,
)

KEY = "statistics"
COMPARISON = "statistics.comparison"
METHOD = (
    f"percentile bootstrap, {RESAMPLES} resamples of the timed runs of each prompt and side; the "
    "published baselines that scores divide by are taken as exact"
)
_SIDES = ("baseline", "nki")


class NoStatistics(ValueError):
    """Samples from which no statistics follow; the text says why."""


@dataclass(frozen=True)
class _Runs:
    """The runs of one prompt and side: latencies, what bootstrap makes of them, and the score."""

    samples: Sequence[float]
    mean: Values
    p99: Values
    score: float | None

    @property
    def scores(self) -> Values | None:
        """Resampled scores: a score goes with 1 / (p99 x mean) of the latencies."""
        if self.score is None:
            return None
        observed = summarise_ms(self.samples)
        result: Values = self.score * (observed.p99_ms * observed.mean_ms) / (self.p99 * self.mean)
        return result


def statistics_of(record: Any, one_machine: bool) -> dict[str, Any]:
    """Return the statistics of a record's samples; NoStatistics where they do not suffice.

    `one_machine` tells that baseline and NKI ran on the same host: only then are they compared.
    """
    prompts = members(record, "per_prompt_results")
    seed = number(record, "test_configuration.seed") or 0
    runs = {
        (prompt, side): _runs(record, prompt, side, (int(seed), index, which))
        for index, prompt in enumerate(prompts)
        for which, side in enumerate(_SIDES)
    }
    fewest = min(len(of.samples) for of in runs.values()) if runs else 0
    if fewest < LEAST_SAMPLES:
        raise NoStatistics(f"{fewest} timed run(s); an interval takes at least {LEAST_SAMPLES}")
    found: dict[str, Any] = {
        "basis": "measured",
        "method": METHOD,
        "resamples": RESAMPLES,
        "confidence": CONFIDENCE,
        "one_machine": one_machine,
        "tail": {"runs": fewest, **tail(fewest)},
        "per_prompt": [
            {
                "prompt_id": lookup(record, f"{prompt}.prompt_id"),
                **{side: _of_side(record, runs[prompt, side]) for side in _SIDES},
            }
            for prompt in prompts
        ],
        "totals": _totals({side: [runs[p, side] for p in prompts] for side in _SIDES}),
    }
    if one_machine:
        pairs = [(runs[prompt, "baseline"], runs[prompt, "nki"]) for prompt in prompts]
        ids = [lookup(record, f"{prompt}.prompt_id") for prompt in prompts]
        found["comparison"] = _comparison(ids, pairs)
    return found


def add_statistics(record: dict[str, Any], machines: Sequence[Mapping[str, Any]] | None) -> None:
    """Add statistics to a device's record, or under `absent` why there are none.

    `machines` are those of the evaluations; None where the record does not tell them apart.
    """
    one_machine = machines is not None and all(machine == machines[0] for machine in machines)
    try:
        record[KEY] = statistics_of(record, one_machine)
    except NoStatistics as reason:
        record["absent"].append({"key": KEY, "reason": str(reason)})
        return
    if not one_machine:
        why = "the sides ran on different machines" if machines else "the machines are not known"
        record["absent"].append({"key": COMPARISON, "reason": why})


def statistics_follow_from_samples(record: Any) -> Iterator[Problem]:
    """Statistics are those of the samples; a simulator has none, a device has them or says why."""
    stated = lookup(record, KEY)
    on_device = lookup(record, "backend") == "neuron"
    if stated is None:
        listed = {lookup(record, f"{entry}.key") for entry in _absent(record)}
        measured = numbers(record, "per_prompt_results[0].nki.latency.samples_ms")
        if on_device and measured and KEY not in listed:
            yield Problem(KEY, "samples have statistics", f"a value, or {KEY} in absent", "neither")
        return
    if lookup(record, "backend") in ("simulator", "neuron-simulator"):
        yield Problem(KEY, "a simulator measures no device", "no such key", shown(stated))
        return
    try:
        computed = statistics_of(record, lookup(stated, "one_machine") is True)
    except NoStatistics as reason:
        yield Problem(KEY, "statistics follow from samples", str(reason), shown(stated))
        return
    expected, found = dict(walk(computed)), dict(walk(stated))
    for path in sorted(expected.keys() | found.keys()):
        if not _agree(expected.get(path), found.get(path)):
            rule = "statistics follow from samples"
            values = shown(expected.get(path)), shown(found.get(path))
            yield Problem(f"{KEY}.{path}", rule, *values)


def _absent(record: Any) -> Iterator[str]:
    for entry in members(record, "absent"):
        if isinstance(lookup(record, f"{entry}.key"), str):
            yield entry


def _agree(expected: Any, found: Any) -> bool:
    if isinstance(expected, (dict, list)) and type(expected) is type(found):
        return True  # what they hold is compared by itself
    if is_number(expected) and is_number(found):
        return bool(abs(expected - found) <= 1e-9 * max(abs(expected), abs(found)))
    return bool(expected == found and type(expected) is type(found))


def _runs(record: Any, prompt: str, side: str, seed: tuple[int, int, int]) -> _Runs:
    samples = numbers(record, f"{prompt}.{side}.latency.samples_ms")
    measured = lookup(record, f"{prompt}.{side}.latency.basis") == "measured"
    if samples is None or not measured or min(samples) <= 0 or seed[0] not in range(2**32):
        raise NoStatistics("not every latency is measured, with its samples")
    drawn = resampled(samples, *seed)
    return _Runs(samples, means(drawn), p99s(drawn), number(record, f"{prompt}.{side}.score"))


def _of_side(record: Any, runs: _Runs) -> dict[str, Any]:
    length = number(record, "test_configuration.sequence_length") or 0
    batch = number(record, "test_configuration.batch_size") or 1
    found: dict[str, Any] = {
        "runs": len(runs.samples),
        "median_ms": summarise_ms(runs.samples).p50_ms,
        "latency_interval_ms": interval(runs.p99),
        "throughput_interval_tok_s": interval(1e3 * length * batch / runs.mean),
    }
    if runs.scores is not None:
        found["score_interval"] = interval(runs.scores)
    return found


def _totals(runs: Mapping[str, Sequence[_Runs]]) -> dict[str, Any]:
    """Return the intervals of the summary's scores, where every prompt has one."""
    totals: dict[str, Values] = {}
    for side, of_side in runs.items():
        scores = [of.scores for of in of_side]
        known = [values for values in scores if values is not None]
        if len(known) < len(scores):
            return {}
        totals[side] = np.sum(known, axis=0)
    found = {f"{side}_total_score_interval": interval(total) for side, total in totals.items()}
    if float(np.min(totals["baseline"])) > 0:
        gain = 100.0 * (totals["nki"] / totals["baseline"] - 1.0)
        found["improvement_percent_interval"] = interval(gain)
    return found


def _comparison(ids: Sequence[Any], pairs: Sequence[tuple[_Runs, _Runs]]) -> dict[str, Any]:
    """Return how many times as fast NKI is, by prompt and over the prompts, mean against mean."""
    ratios = [float(np.mean(a.samples) / np.mean(b.samples)) for a, b in pairs]
    drawn = [a.mean / b.mean for a, b in pairs]
    faster, slower = sum(r > 1 for r in ratios), sum(r < 1 for r in ratios)
    return {
        "per_prompt": [
            {
                "prompt_id": prompt_id,
                "speedup": ratio,
                "speedup_interval": interval(values),
                "latency_ratio": summarise_ms(a.samples).p99_ms / summarise_ms(b.samples).p99_ms,
                "latency_ratio_interval": interval(a.p99 / b.p99),
                "share_of_pairs_faster": float(np.mean(np.greater.outer(a.samples, b.samples))),
            }
            for prompt_id, ratio, values, (a, b) in zip(ids, ratios, drawn, pairs, strict=True)
        ],
        "geometric_mean_speedup": float(np.exp(np.mean(np.log(ratios)))),
        "geometric_mean_speedup_interval": interval(np.exp(np.mean(np.log(drawn), axis=0))),
        "prompts_faster": faster,
        "prompts_slower": slower,
        "sign_test_p": sign_test(faster, slower),
    }
