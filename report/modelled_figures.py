"""Figures of modelled times: of the whole model, of a layer, of each kernel, and how far off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from report.device import against_modelled
from report.drawing import (
    COLOURS,
    DARK,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    PINK,
    SKY,
    YELLOW,
    column_figure,
    flat,
    legend,
    name_rows,
    number_points,
    short,
    without,
)
from report.fields import Fields
from report.modelled import PATHS, PLATFORMS, TRACKS, final_step, prompt_label, token_parts

ABSENT = "no modelled times in this record"
_HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "++++")
_PLATFORM_STYLES = {"trn2": (DARK, "o"), "trn3": (ORANGE, "s")}
_TRACK_COLOURS = {
    "tensor": PINK, "vector": DARK, "scalar": ORANGE, "gpsimd": GREEN, "sync": YELLOW,
    "meeting": "black", "DMA issue": GREY, "DMA": SKY,
}  # fmt: skip
_UNIT_US = {"ns": 1e-3, "us": 1.0, "ms": 1e3}


def _of_modelled(draw: Callable[[Fields], Figure]) -> Callable[[Fields], Figure]:
    """Make a figure say that it has no data where the record has no modelled times."""

    @wraps(draw)
    def figure_of(record: Fields) -> Figure:
        if "modelled" not in record:
            return without(column_figure(0.6).subplots(), ABSENT)
        return draw(record)

    return figure_of


@_of_modelled
def scores(record: Fields) -> Figure:
    """Modelled latency (left) and score (right) of each prompt with ranges, logarithmic.

    A vertical bar marks the published base value; a base value scores 1 at a ratio of 0.
    """
    predictions = record["modelled"]["predictions"]
    prompts = predictions["trn2"]["paths"]["fused"]["prompts"]
    figure = column_figure(0.75 + 0.25 * len(prompts))
    left, right = figure.subplots(1, 2, sharey=True)
    for index, platform in enumerate(PLATFORMS):
        found = predictions[platform]["paths"]["fused"]["prompts"]
        colour, marker = _PLATFORM_STYLES[platform]
        for axes, key, scale in ((left, "latency_ms", 1e-3), (right, "score", 1.0)):
            ranges = [prompt[key] for prompt in found]
            rows = [row + 0.36 * (index - 0.5) for row in range(len(found))]
            _ranges(axes, ranges, rows, colour, marker, platform, scale)
    base = [
        (row, entry["latency_ms"] / 1e3)
        for row, prompt in enumerate(prompts)
        for entry in record["score_baselines"]["per_prompt"]
        if entry["prompt_id"] == prompt["prompt_id"]
    ]
    left.plot([x for _row, x in base], [row for row, _x in base], "|", color=GREY, markersize=9)
    left.plot([], [], "|", color=GREY, label=f"base, {record['score_baselines']['platform']}")
    _measured(left, right, record, prompts)
    for axes, label in ((left, "latency (s)"), (right, "score")):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        low, high = axes.get_xlim()
        axes.set_xlim(low, 1.4 * high)  # the last tick's number stays inside
        axes.set_xlabel(label)
    name_rows(left, [short(prompt_label(record, prompt), 1.1) for prompt in prompts])
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def _measured(left: Axes, right: Axes, record: Fields, prompts: list[Fields]) -> None:
    """Add what a device measured for these prompts, if one did."""
    found = {prompt["prompt_id"]: prompt["nki"] for prompt in record["per_prompt_results"]}
    for axes, key, scale in ((left, "latency_ms", 1e-3), (right, "score", 1.0)):
        rows = [r for r, p in enumerate(prompts) if key in found.get(p["prompt_id"], {})]
        values = [scale * found[prompts[row]["prompt_id"]][key] for row in rows]
        if rows:
            axes.plot(values, rows, "D", color="black", markersize=3.4, label="measured here")


def _ranges(
    axes: Axes, ranges: list[Fields], rows: Sequence[float], colour: str, marker: str, label: str,
    scale: float,
) -> None:  # fmt: skip
    """Draw each range as a line with its nominal value as a marker."""
    middle = [scale * one["nominal"] for one in ranges]
    ends = [
        [scale * (one["nominal"] - one["low"]) for one in ranges],
        [scale * (one["high"] - one["nominal"]) for one in ranges],
    ]
    axes.errorbar(
        middle, rows, xerr=ends, fmt=marker, color=colour, markersize=3.4, elinewidth=0.9,
        label=label,
    )  # fmt: skip


@_of_modelled
def token_time(record: Fields) -> Figure:
    """Where a token's time goes: the parts of a decode step at the largest bucket, stacked.

    A dashed line stands at each platform's least time by HBM; a thin line spans the total's range.
    """
    rows = [(platform, path) for platform in PLATFORMS for path in PATHS]
    figure = column_figure(0.7 + 0.3 * len(rows))
    axes = figure.subplots()
    lefts = [0.0] * len(rows)
    steps = [final_step(record, platform, path) for platform, path in rows]
    for index, part in enumerate(token_parts(steps[0])):
        values = [token_parts(step)[part] / 1e3 for step in steps]
        axes.barh(
            range(len(rows)), values, left=lefts, height=0.62, color=COLOURS[index % 6],
            hatch=_HATCHES[index % 6], edgecolor="black", linewidth=0.4, label=part,
        )  # fmt: skip
        lefts = [left + value for left, value in zip(lefts, values, strict=True)]
    for row, (step, (platform, _path)) in enumerate(zip(steps, rows, strict=True)):
        total, bound = step["total_us"], record["modelled"]["predictions"][platform]["bound"]
        axes.hlines(row + 0.42, total["low"] / 1e3, total["high"] / 1e3, color=GREY, linewidth=0.9)
        least_ms = bound["time_us"] / 1e3
        axes.vlines(least_ms, row - 0.42, row + 0.42, color="black", linestyle="--", linewidth=1.0)
    axes.set_xlim(0, None)
    axes.set_xlabel("decode step (ms)")
    name_rows(axes, [f"{platform}, {path}" for platform, path in rows])
    figure.legend(loc="outside upper center", ncols=3, handlelength=1.3, columnspacing=0.9)
    return figure


@_of_modelled
def tuning_ladder(record: Fields) -> Figure:
    """Modelled time of the decoder's stack after each step of tuning, with ranges, per platform."""
    steps = record["modelled"]["ladders"]["kernels"]["decoder_stack_ranks"]["steps"]
    figure = column_figure(0.62 + 0.2 * len(steps))
    axes = figure.subplots()
    for index, platform in enumerate(PLATFORMS):
        times = [step["time_us"][platform] for step in steps]
        rows = [row + 0.32 * (index - 0.5) for row in range(len(steps))]
        colour, marker = _PLATFORM_STYLES[platform]
        axes.plot([time["nominal"] for time in times], rows, color=colour, linewidth=0.5)
        _ranges(axes, times, rows, colour, marker, platform, 1.0)
    axes.set_xlabel("µs per layer")
    name_rows(axes, [short(step["step"]) for step in steps])
    legend(axes)
    return figure


@_of_modelled
def layer_timeline(record: Fields) -> Figure:
    """Busy intervals of a core's engines and queues in one decode layer, a panel per platform."""
    lines = {p: record["modelled"]["predictions"][p]["layer_timeline"] for p in PLATFORMS}
    figure = column_figure(2.7)
    longest = max(line["time_us"] for line in lines.values())
    panels = figure.subplots(2, 1, sharex=True)
    for axes, (platform, line) in zip(panels, lines.items(), strict=True):
        for place, row in enumerate(line["rows"]):
            spans = [(begin, end - begin) for begin, end in row["intervals_us"]]
            colour = _TRACK_COLOURS.get(row["engine"], GREY)
            axes.broken_barh(spans, (place - 0.38, 0.76), facecolors=colour, linewidth=0)
        for half in line["halves"]:
            axes.axvline(half["end_us"], color=GREY, linewidth=0.8, linestyle=(0, (3, 1.5)))
            axes.annotate(
                half["name"], (half["end_us"], -0.6), (-2, 1), textcoords="offset points",
                ha="right", va="bottom", fontsize=7,
            )  # fmt: skip
        axes.set_xlim(0, 1.01 * longest)
        axes.set_title(platform, loc="left", fontsize=8)
        name_rows(axes, [TRACKS.get(row["engine"], row["engine"]) for row in line["rows"]])
    axes.set_xlabel("µs from the end of the layer before")
    return figure


@_of_modelled
def roofline(record: Fields) -> Figure:
    """Operations per second against operations per byte of HBM, a point per kernel.

    Operations are multiply-accumulates (filled) or, of a kernel without any, elements (hollow). The
    roofs are those of two cores, which share an HBM stack; the platform is the record's.
    """
    platform = record["platform_target"]
    found = record["modelled"]["predictions"][platform if platform in PLATFORMS else "trn2"]
    points = sorted(found["roofline"]["points"], key=lambda point: point["kernel"])
    figure = column_figure(3.2)
    axes = figure.subplots()
    places = [
        (_operations(point) / point["hbm_bytes"], _operations(point) / point["time_us"]["nominal"])
        for point in points
    ]
    _draw_roofs(axes, found["roofline"]["roofs"], [x for x, _y in places])
    for number, (point, (x, y)) in enumerate(zip(points, places, strict=True), 1):
        colour = ORANGE if "prefill" in point["kernel"] else DARK
        face = colour if point["macs"] else "white"
        axes.plot([x], [y], marker="o", color=colour, markerfacecolor=face, linestyle="none")
        axes.plot([], [], " ", label=f"{number} {short(point['kernel'], 1.3)}")
    axes.set(xscale="log", yscale="log")
    axes.set(xlabel="operations per byte of HBM", ylabel="operations per µs")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(True, axis="y")
    figure.legend(
        loc="outside lower center", ncols=2, handlelength=0, handletextpad=0, columnspacing=1.0,
        labelspacing=0.1, borderpad=0.5,
    )  # fmt: skip
    number_points(axes, places)
    return figure


def _operations(point: Fields) -> float:
    return float(point["macs"] or point["elements"])


def _draw_roofs(axes: Axes, roofs: Fields, intensities: Sequence[float]) -> None:
    """Draw the roof of HBM up to that of two cores' tensor engines, and some of that."""
    rate, peak = roofs["hbm_bytes_per_us_and_stack"], 2 * roofs["macs_per_us_and_core"]
    ridge = peak / rate
    low, high = min(intensities) / 3, max(4 * ridge, 2 * max(intensities))
    axes.plot([low, ridge, high], [rate * low, peak, peak], color=GREY, linewidth=1.0)
    style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7}
    axes.annotate("HBM", (low, rate * low), (0, 8), **style)
    axes.annotate("PE", (high, peak), (0, 3), ha="right", **style)


@_of_modelled
def predicted_against_published(record: Fields) -> Figure:
    """Modelled over published time with its range; hollow: it had a part in a constant.

    Where a device ran what was modelled, the latencies that it measured are among the points.
    """
    points = [p for p in record["modelled"]["validation"]["points"] if p["unit"] in _UNIT_US]
    figure = column_figure(1.85)
    axes = figure.subplots()
    for index, group in enumerate(dict.fromkeys(point["group"] for point in points)):
        style: dict[str, Any] = {"color": COLOURS[index % 6], "marker": MARKERS[index % 6]}
        for point in (point for point in points if point["group"] == group):
            x = point["published"] * _UNIT_US[point["unit"]]
            low, middle, high = _ratios(point)
            axes.vlines(x, low, high, color=style["color"], linewidth=0.5)
            face = "white" if point["used"] else style["color"]
            axes.plot([x], [middle], markerfacecolor=face, markersize=3, linestyle="none", **style)
        axes.plot([], [], linestyle="none", markersize=3, label=group, **style)
    here = against_modelled(record)
    for one in here:
        x, modelled = 1e3 * one["measured_ms"], one["modelled_ms"]
        axes.vlines(
            x, *(modelled[end] / one["measured_ms"] for end in ("low", "high")), color="k", lw=0.5
        )
        axes.plot([x], [one["ratio"]], "D", color="black", markersize=3)
    if here:
        axes.plot([], [], "D", color="black", markersize=3, label="measured here")
    published = [point["published"] * _UNIT_US[point["unit"]] for point in points]
    everything = [*published, *(1e3 * one["measured_ms"] for one in here)]
    axes.plot([min(everything), max(everything)], [1, 1], color=GREY, linewidth=0.8)
    other = "measured" if here else "published"
    axes.set(xscale="log", yscale="log", xlabel=f"{other} (µs)", ylabel=f"modelled over {other}")
    _ratio_ticks(axes, points)
    axes.grid(True, axis="y")
    legend(axes)
    return figure


def _ratios(point: Fields) -> list[float]:
    """Return low, nominal and high over the published value."""
    return [point["modelled"][end] / point["published"] for end in ("low", "nominal", "high")]


def _ratio_ticks(axes: Axes, points: list[Fields]) -> None:
    ratios = flat(_ratios(point) for point in points)
    low, high = min(ratios) / 2, 2 * max(ratios)
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10) if low < tick < high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_locator(NullLocator())
