"""Published points, what the model predicts for them, and how far off it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nki_sim.latency import Range

POINTS = Path(__file__).with_name("points.yaml")
NANOSECONDS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "fraction": 1.0}
TARGETS = {"streaming": 0.10, "decode": 0.20}
"""Median error that is aimed at, by group."""
RANK_TARGET = 0.9
LEAST_LADDER = 3
"""Variants without which an order says nothing."""

Workload = Callable[..., Range]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Point:
    """One published measurement.

    Attributes:
        id, group, platform: which, of which kind, on what.
        value, unit: what was measured (``ns``, ``us``, ``ms``, or ``fraction`` of another time).
        source: where it is published.
        program, arguments: the workload that rebuilds it, and its settings.
        used: the constants that it has a part in; empty when it was held out.
        ladder: the variants of one workload that it belongs to.
        note: what differs from the published workload.
    """

    id: str
    group: str
    platform: str
    value: float
    unit: str
    source: str
    program: str
    arguments: dict[str, Any] = field(default_factory=dict)
    used: str = ""
    ladder: str = ""
    note: str = ""


def load_points(path: Path = POINTS) -> list[Point]:
    """The points of a file.

    Raises:
        ValueError: a point that lacks something, an unknown unit, or an id used twice.
    """
    points = []
    for entry in yaml.safe_load(path.read_text()):
        try:
            point = Point(**entry)
        except TypeError as error:
            raise ValueError(f"{path}: {entry.get('id', entry)}: {error}") from None
        if point.unit not in NANOSECONDS or not point.value > 0:
            raise ValueError(f"{path}: {point.id}: {point.value} {point.unit} is no measurement")
        points.append(point)
    ids = [point.id for point in points]
    twice = {one for one in ids if ids.count(one) > 1}
    if twice:
        raise ValueError(f"{path}: used twice: {', '.join(sorted(twice))}")
    return points


def compare(point: Point, workloads: dict[str, Workload]) -> Json:
    """One row: the point, the prediction in its unit, and the relative error."""
    before = os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE")
    os.environ["NEURON_PLATFORM_TARGET_OVERRIDE"] = point.platform
    try:
        found = workloads[point.program](point.platform, **point.arguments)
    finally:
        if before is None:
            del os.environ["NEURON_PLATFORM_TARGET_OVERRIDE"]
        else:
            os.environ["NEURON_PLATFORM_TARGET_OVERRIDE"] = before
    unit = NANOSECONDS[point.unit]
    low, nominal, high = found.low / unit, found.nominal / unit, found.high / unit
    return {
        "id": point.id,
        "group": point.group,
        "platform": point.platform,
        "program": point.program,
        "arguments": point.arguments,
        "unit": point.unit,
        "published": point.value,
        "modelled": {"low": low, "nominal": nominal, "high": high},
        "error": nominal / point.value - 1,
        "in_range": low <= point.value <= high,
        "used": point.used,
        "ladder": point.ladder,
        "note": point.note,
        "source": point.source,
    }


def summary(rows: Sequence[Json]) -> Json:
    """Errors by group, split into points used for constants and points held out; and ladders."""
    groups: Json = {}
    for group in dict.fromkeys(row["group"] for row in rows):
        members = [row for row in rows if row["group"] == group]
        held_out = [row for row in members if not row["used"]]
        target = TARGETS.get(group)
        found = _errors(held_out)
        groups[group] = {
            "held_out": found,
            "used": _errors([row for row in members if row["used"]]),
            "target": target,
            "met": None if target is None or not held_out else found["median"] <= target,
        }
    return {"groups": groups, "ladders": _ladders(rows)}


def _errors(rows: Sequence[Json]) -> Json:
    if not rows:
        return {"points": 0}
    sizes = np.array([abs(row["error"]) for row in rows])
    return {
        "points": len(rows),
        "median": float(np.median(sizes)),
        "p90": float(np.percentile(sizes, 90)),
        "bias": float(np.median([row["error"] for row in rows])),
        "in_range": float(np.mean([row["in_range"] for row in rows])),
    }


def _ladders(rows: Sequence[Json]) -> Json:
    ladders: Json = {}
    for name in dict.fromkeys(row["ladder"] for row in rows if row["ladder"]):
        members = [row for row in rows if row["ladder"] == name]
        if len(members) < LEAST_LADDER:
            continue
        unit = [NANOSECONDS[row["unit"]] for row in members]
        published = [row["published"] * u for row, u in zip(members, unit, strict=True)]
        modelled = [row["modelled"]["nominal"] * u for row, u in zip(members, unit, strict=True)]
        correlation = rank_correlation(published, modelled)
        ladders[name] = {
            "points": len(members),
            "rank_correlation": correlation,
            "met": correlation >= RANK_TARGET,
        }
    return ladders


def rank_correlation(one: Iterable[float], other: Iterable[float]) -> float:
    """Spearman's rank correlation; equal values share the mean of their ranks."""
    left, right = (_ranks(np.array(list(values))) for values in (one, other))
    left, right = left - left.mean(), right - right.mean()
    size = float(np.sqrt((left**2).sum() * (right**2).sum()))
    return float((left * right).sum() / size) if size else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    below = (values[None, :] < values[:, None]).sum(axis=1)
    equal = (values[None, :] == values[:, None]).sum(axis=1)
    return np.asarray(below + (equal - 1) / 2)
