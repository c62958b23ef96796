"""The comparison for people: a table in Markdown, and predicted against published as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .comparison import NANOSECONDS, RANK_TARGET

Json = dict[str, Any]
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")


def markdown(result: Json) -> str:
    """Errors by group, ladders, and every point."""
    parts = [
        "# The latency model against published measurements",
        "Errors are |modelled / published - 1|. Held-out points had no part in any constant.",
        _groups(result["summary"]["groups"]),
        _ladders(result["summary"]["ladders"]),
        _points(result["points"]),
    ]
    return "\n\n".join(parts) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _groups(groups: Json) -> str:
    rows = []
    for name, group in groups.items():
        for split in ("held_out", "used"):
            errors = group[split]
            if not errors["points"]:
                continue
            target = group["target"] if split == "held_out" else None
            met = {True: "met", False: "missed", None: ""}[group["met"]] if target else ""
            rows.append(
                (
                    name, split.replace("_", " "), str(errors["points"]),
                    _percent(errors["median"]), _percent(errors["p90"]), _percent(errors["bias"]),
                    _percent(errors["in_range"]), _percent(target), met,
                )
            )  # fmt: skip
    header = "group", "points", "number", "median", "90th percentile", "median signed"
    return _table((*header, "inside the range", "target", ""), rows)


def _ladders(ladders: Json) -> str:
    rows = [
        (
            name, str(one["points"]), f"{one['rank_correlation']:.3f}",
            "met" if one["met"] else "missed",
        )
        for name, one in ladders.items()
    ]  # fmt: skip
    return _table(("ladder", "variants", f"rank correlation (target {RANK_TARGET})", ""), rows)


def _points(points: Sequence[Json]) -> str:
    rows = []
    for one in points:
        modelled = one["modelled"]
        numbers = [f"{modelled[end]:.4g}" for end in ("low", "nominal", "high")]
        rows.append(
            (
                one["id"], one["platform"], one["unit"], f"{one['published']:.4g}", numbers[1],
                f"{numbers[0]} to {numbers[2]}", f"{100 * one['error']:+.1f} %", one["used"],
            )
        )  # fmt: skip
    header = "point", "platform", "unit", "published", "modelled", "range", "error", "used for"
    return _table(header, rows)


def figure(result: Json, path: Path) -> None:
    """Predicted against published times, with ranges; hollow: used for constants."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    canvas, axes = plt.subplots(figsize=(5.2, 4.6), layout="constrained")
    points = [one for one in result["points"] if one["unit"] != "fraction"]
    groups = list(dict.fromkeys(one["group"] for one in points))
    for colour, group in zip(COLOURS, groups, strict=False):
        members = [one for one in points if one["group"] == group]
        for used in (False, True):
            _scatter(axes, [one for one in members if bool(one["used"]) is used], colour, used)
        axes.plot([], [], "o", color=colour, label=group)
    published = [one["published"] * NANOSECONDS[one["unit"]] / 1e3 for one in points]
    ends = [min(published, default=1.0) / 2, max(published, default=1.0) * 2]
    axes.plot(ends, ends, color="0.4", linewidth=0.8)
    for factor in (0.8, 1.25):
        axes.plot(ends, [end * factor for end in ends], color="0.7", linewidth=0.6, linestyle="--")
    axes.set(xscale="log", yscale="log", xlabel="published [us]", ylabel="modelled [us]")
    axes.set(xlim=ends, ylim=ends)
    axes.legend(frameon=False)
    canvas.savefig(path)
    plt.close(canvas)


def _scatter(axes: Any, members: Sequence[Json], colour: str, hollow: bool) -> None:
    if not members:
        return
    scale = [NANOSECONDS[one["unit"]] / 1e3 for one in members]
    x = [one["published"] * s for one, s in zip(members, scale, strict=True)]
    y, below, above = [], [], []
    for one, s in zip(members, scale, strict=True):
        ends = one["modelled"]
        y.append(ends["nominal"] * s)
        below.append((ends["nominal"] - ends["low"]) * s)
        above.append((ends["high"] - ends["nominal"]) * s)
    axes.errorbar(
        x, y, yerr=(below, above), fmt="o", color=colour, markersize=3.5, elinewidth=0.6,
        markerfacecolor="white" if hollow else colour,
    )  # fmt: skip
