"""What the engines do in one decode layer, as intervals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from model.plan import BUCKETS
from nki_sim.latency import Prediction
from nki_sim.latency.rows import TRACKS, Bar, bars
from nki_sim.latency.tasks import Meeting
from prediction.launches import LAYERS, Rank

Interval = tuple[float, float]
GAP_US = 0.1
"""Intervals that are less apart are drawn as one."""
CORE = 0


def layer_timeline(rank: Rank) -> dict[str, Any]:
    """The busy intervals of core 0 between the ends of two layers, in the middle of a stack.

    A layer begins when the sum over the ranks of the layer before has arrived and ends with its
    own; `halves` says when the one in between has arrived, which ends attention.
    """
    prediction = rank.prediction("decoder_stack", 1, BUCKETS[-1], LAYERS[1], summed=True)
    layer = LAYERS[1] // 2
    arrivals = _sums(prediction)
    begin, middle, end = (arrivals[2 * layer + turn] for turn in (-1, 0, 1))
    shown = [bar for bar in bars(prediction) if bar.core == CORE]
    rows = [_row(shown, track, begin, end) for track in TRACKS]
    return {
        "kernel": "decoder_stack_ranks",
        "bucket": BUCKETS[-1],
        "layer": layer,
        "layers": LAYERS[1],
        "core": CORE,
        "time_us": end - begin,
        "halves": [
            {"name": "attention", "end_us": middle - begin},
            {"name": "experts", "end_us": end - begin},
        ],
        "merged_below_us": GAP_US,
        "rows": [row for row in rows if row["intervals_us"]],
    }


def _sums(prediction: Prediction) -> list[float]:
    """When the sums over the ranks have arrived on the core, in us."""
    plan, timing = prediction.plan, prediction.timing
    found = []
    for number in range(len(plan.events)):
        task = plan.task(number)
        if plan.core[number] == CORE and isinstance(task, Meeting) and task.kind == "collective":
            found.append(timing.end[number] / 1e3)
    return found


def _row(shown: list[Bar], track: str, begin: float, end: float) -> dict[str, Any]:
    """A track's intervals from `begin` on; transfers that overlap are one."""
    spans = [
        (max(bar.begin_us, begin) - begin, min(bar.begin_us + bar.time_us, end) - begin)
        for bar in shown
        if bar.row == track and bar.begin_us < end and bar.begin_us + bar.time_us > begin
    ]
    exact = merged(spans, 0.0)
    return {
        "engine": track,
        "busy_us": sum(last - first for first, last in exact),
        "intervals_us": [[round(one, 3) for one in span] for span in merged(exact, GAP_US)],
    }


def merged(spans: Iterable[Interval], gap: float) -> list[Interval]:
    """Intervals in their order, those at most `gap` apart as one."""
    result: list[Interval] = []
    for begin, end in sorted(spans):
        if result and begin <= result[-1][1] + gap:
            result[-1] = result[-1][0], max(result[-1][1], end)
        else:
            result.append((begin, end))
    return result
