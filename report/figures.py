"""The report's figures: functions from the results record to figures one text column wide.

Colours are told apart by colour-blind readers (Okabe and Ito's palette, ordered by lightness) and
series differ in marker or hatch as well, so that the figures survive a grey printer. Files hold no
dates: the same record gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from math import isnan, nan
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from evaluation.files import read_json, write_atomically
from report.facts import (
    ENGINES,
    OPERATIONS,
    PHASES,
    accuracy_of,
    drift_by_layer,
    engines,
    families,
    prefill_overheads,
    runs,
    top_k_entry,
    top_k_keys,
)
from report.fields import Fields

COLUMN_IN = 3.3
"""Width of one text column, in inches."""

_PNG_DPI = 200
_LABEL_LENGTH = 27
_DARK, _ORANGE, _SKY, _GREEN, _GREY = "#0b4f7d", "#e69f00", "#7cc4ee", "#009e73", "#5b5b5b"
_MARKERS = ("o", "s", "^", "D", "v", "P")
_COLOURS = (_DARK, _ORANGE, _SKY, _GREEN, "#cc79a7", "#f0e442")
_ENGINE_STYLES = {
    "tensor": ("#cc79a7", "xxxx"),
    "vector": (_DARK, ""),
    "scalar": (_ORANGE, "////"),
    "gpsimd": (_GREEN, "\\\\\\\\"),
    "dma": (_SKY, "...."),
    "sync": ("#f0e442", "++++"),
}
"""Colour and hatch of each engine, the same in every record."""

STYLE: dict[str, Any] = {
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.0,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": "#d8d8d8",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "hatch.linewidth": 0.5,
    "lines.markersize": 3.6,
    "pdf.fonttype": 42,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.02,
    "figure.constrained_layout.w_pad": 0.02,
}


def accuracy_margin(record: Fields) -> Figure:
    """Worst relative logit error against the tolerance (left), error against decision gap (right).

    Axes are logarithmic. An error of 0 stands at the left edge, hollow.
    """
    prompts = record["per_prompt_results"]
    figure = _figure(0.85 + 0.27 * len(prompts))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
    _draw_tolerances(left, prompts, top_k_keys(record))
    left.set_xlabel("worst relative error")
    _draw_gaps(right, prompts)
    right.set_xlabel("logits")
    _name_rows(left, [_short(prompt["name"]) for prompt in prompts])
    figure.legend(loc="outside upper center", ncols=5, handlelength=1.5, columnspacing=0.9)
    return figure


def _draw_tolerances(axes: Axes, prompts: list[Fields], keys: list[str]) -> None:
    """Draw each prompt's worst relative error in each top-k set, and the tolerances dashed."""
    entries = {key: [top_k_entry(prompt, key) for prompt in prompts] for key in keys}
    errors = {key: [entry["worst_relative_error"] for entry in entries[key]] for key in keys}
    tolerances = {entry["relative_tolerance"] for row in entries.values() for entry in row}
    for tolerance in sorted(tolerances):
        axes.axvline(tolerance, color=_GREY, linewidth=0.9, linestyle=(0, (3, 1.5)))
    values = [*_flat(errors.values()), *tolerances]
    labels = {key: key if key == "all" else f"top {key}" for key in keys}
    _dots(axes, errors, labels, _floor(values), spread=0.56)
    axes.plot([], [], color=_GREY, linewidth=0.9, linestyle=(0, (3, 1.5)), label="tolerance")
    _log_axis(axes, values)


def _draw_gaps(axes: Axes, prompts: list[Fields]) -> None:
    """Join each prompt's largest logit error to the smallest lead of the baseline's choice."""
    errors = [accuracy_of(prompt)["max_abs_logit_error"] for prompt in prompts]
    gaps = [accuracy_of(prompt)["smallest_baseline_gap"] for prompt in prompts]
    floor = _floor([*errors, *gaps])
    for row, (error, gap) in enumerate(zip(errors, gaps, strict=True)):
        axes.plot(
            [error or floor, gap or floor], [row, row], color="#b0b0b0", linewidth=1.2, zorder=1
        )
    series = {"largest error": errors, "smallest gap": gaps}
    _dots(axes, series, {}, floor, markers=("o", "d"), colours=(_DARK, "black"), spread=0.0)
    _log_axis(axes, _flat(series.values()), ticks=4)
    for name, value in (("error", errors[0] or floor), ("gap", gaps[0] or floor)):
        axes.annotate(name, (value, 0), (0, 4), textcoords="offset points", ha="center", fontsize=7)


def kernel_errors(record: Fields) -> Figure:
    """Largest absolute error of each kernel against its oracle, fp32 and bf16, logarithmic."""
    kernels = _by_family(record)
    figure = _figure(0.75 + 0.135 * len(kernels))
    axes = figure.subplots()
    errors = {
        dtype: [_error(kernel["validation"], dtype) for kernel in kernels]
        for dtype in ("float32", "bfloat16")
    }
    values = [value for value in _flat(errors.values()) if not isnan(value)]
    _dots(axes, errors, {"float32": "FP32", "bfloat16": "BF16"}, _floor(values), spread=0.0)
    _log_axis(axes, values)
    axes.set_xlabel("largest absolute error against the oracle")
    _name_rows(axes, [_short(kernel["name"], 30) for kernel in kernels])
    _part_families(axes, record)
    _legend(axes)
    return figure


def _error(validation: Fields, dtype: str) -> float:
    """Return a kernel's largest error in a type, NaN (drawn as nothing) if it does not take it."""
    return float(validation[dtype]["max_abs_error"]) if dtype in validation else nan


def kernel_work(record: Fields) -> Figure:
    """Instructions of one launch by engine (left), bytes to and from HBM (right)."""
    kernels = _by_family(record)
    figure = _figure(0.75 + 0.145 * len(kernels))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.4, 1))
    counts = {
        engine: [k["cost"]["instructions"].get(engine, 0) for k in kernels]
        for engine in engines(record)
    }
    _draw_shares(left, counts)
    left.set_xlabel("instructions (%)")
    traffic = {
        "read": [kernel["cost"]["hbm_read_bytes"] / 2**10 for kernel in kernels],
        "written": [kernel["cost"]["hbm_write_bytes"] / 2**10 for kernel in kernels],
    }
    values = _flat(traffic.values())
    _dots(right, traffic, {name: name for name in traffic}, _floor(values), spread=0.3)
    _log_axis(right, values, ticks=4)
    right.set_xlabel("HBM (KiB)")
    _name_rows(left, [_short(kernel["name"]) for kernel in kernels])
    for axes in (left, right):
        _part_families(axes, record)
        _legend(axes)
    return figure


def _by_family(record: Fields) -> list[Fields]:
    """Return the record's kernels, family after family."""
    return [k for _title, members in families(record["nki_kernels_implemented"]) for k in members]


def _part_families(axes: Axes, record: Fields) -> None:
    """Draw a line between the rows of one family and the next."""
    row = -0.5
    for _title, members in families(record["nki_kernels_implemented"])[:-1]:
        row += len(members)
        axes.hlines(row, *axes.get_xlim(), color="#9a9a9a", linewidth=0.5)


def padding(record: Fields) -> Figure:
    """Counted over useful MACs of each product of a prefill, by prompt, logarithmic."""
    evaluated = runs(record)[:1]
    overheads = prefill_overheads(evaluated[0][2]) if evaluated else {}
    prompts = record["per_prompt_results"]
    figure = _figure(0.75 + 0.2 * len(prompts))
    axes = figure.subplots()
    if not overheads:
        return _without(axes, "no prefill by kernels of products in this record")
    _dots(axes, overheads, OPERATIONS, _floor(_flat(overheads.values())), spread=0.5)
    highest = max(_flat(overheads.values()))
    axes.set_xscale("log")
    axes.set_xlim(0.9, 1.25 * max(highest, 2))
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100) if tick <= 1.25 * max(highest, 2)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("counted over useful MACs")
    names = [f"{_short(p['name'])} ({p['input_tokens']})" for p in prompts]
    _name_rows(axes, names)
    _legend(axes)
    return figure


def drift(record: Fields) -> Figure:
    """Relative distance from the baseline's hidden state after each layer, by phase and run."""
    found = runs(record)
    figure = _figure(1.75)
    if not found:
        return _without(figure.subplots(), "no drift in this record")
    pair = figure.subplots(1, 2, sharey=True)
    lowest = _floor([v for *_run, r in found for phase in PHASES for v in drift_by_layer(r, phase)])
    for axes, (phase, title) in zip(pair, PHASES.items(), strict=True):
        for index, (path, dtype, results) in enumerate(found):
            values = [value or lowest for value in drift_by_layer(results, phase)]
            style = {"marker": _MARKERS[index % 6], "color": _COLOURS[index % 6], "linewidth": 0.8}
            label = f"{path}, {'BF16' if dtype == 'bfloat16' else 'FP32'}"
            axes.plot(range(len(values)), values, label=label, **style)
        axes.set_yscale("log")
        axes.grid(True, axis="y")
        axes.grid(False, axis="x")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlim(-0.3, len(values) - 0.7)
        axes.set_xticks(sorted({0, (len(values) - 1) // 2, len(values) - 1}))
        axes.set_xlabel(f"layer, {title}")
    pair[0].set_ylabel("relative drift")
    handles, labels = pair[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, handlelength=1.4)
    return figure


def _without(axes: Axes, reason: str) -> Figure:
    """Return the figure of `axes`, which says why it is empty."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, reason, ha="center", va="center", transform=axes.transAxes)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return figure


def _draw_shares(axes: Axes, counts: dict[str, list[int]]) -> None:
    """Draw each kernel's instructions as a bar of 100 % divided by engine, the total at its end."""
    totals = [sum(column) for column in zip(*counts.values(), strict=True)]
    lefts = [0.0] * len(totals)
    for engine, values in counts.items():
        colour, hatch = _ENGINE_STYLES.get(engine, ("white", "oo"))
        shares = [100 * value / total for value, total in zip(values, totals, strict=True)]
        style: dict[str, Any] = {
            "color": colour,
            "hatch": hatch,
            "edgecolor": "black",
            "linewidth": 0.4,
        }
        label = ENGINES.get(engine, engine)
        axes.barh(range(len(shares)), shares, left=lefts, height=0.66, label=label, **style)
        lefts = [left + share for left, share in zip(lefts, shares, strict=True)]
    for row, total in enumerate(totals):
        axes.text(103, row, f"{total:,}", va="center", fontsize=7)
    axes.set_xlim(0, 100)
    axes.set_xticks((0, 50, 100))
    axes.grid(False)


FIGURES: dict[str, Callable[[Fields], Figure]] = {
    "accuracy_margin": accuracy_margin,
    "kernel_errors": kernel_errors,
    "kernel_work": kernel_work,
    "padding": padding,
    "drift": drift,
}
"""Every figure of the report by name; the files are called after it."""


def plot(name: str, record_path: Path, pdf_path: Path, png_path: Path) -> None:
    """Draw the figure `name` into a PDF (for the report) and a PNG (for a web page)."""
    if name not in FIGURES:
        raise ValueError(f"unknown figure {name!r}; known: {', '.join(FIGURES)}")
    record = Fields(read_json(record_path))
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = FIGURES[name](record)
        for path, options in (
            (pdf_path, {"format": "pdf", "metadata": {"CreationDate": None, "Title": name}}),
            (png_path, {"format": "png", "dpi": _PNG_DPI, "metadata": {"Title": name}}),
        ):
            buffer = BytesIO()
            figure.savefig(buffer, **options)
            write_atomically(path, buffer.getvalue())


def _figure(height_in: float) -> Figure:
    return Figure(figsize=(COLUMN_IN, height_in))


def _short(text: str, length: int = _LABEL_LENGTH) -> str:
    """Return `text` cut to `length` characters and free of Matplotlib's mathematics."""
    cut = text if len(text) <= length else text[: length - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
    return cut.replace("$", r"\$")


def _flat(series: Iterable[Sequence[float]]) -> list[float]:
    return [value for values in series for value in values]


def _dots(
    axes: Axes,
    series: dict[str, list[float]],
    labels: dict[str, str],
    floor: float,
    *,
    markers: Sequence[str] = _MARKERS,
    colours: Sequence[str] = _COLOURS,
    spread: float = 0.5,
) -> None:
    """Draw one row per item and one marker per series, zeros hollow at `floor`.

    Within a row the series are spread over `spread` of its height.
    """
    for index, (name, values) in enumerate(series.items()):
        offset = spread * (index / max(len(series) - 1, 1) - 0.5)
        colour = colours[index % len(colours)]
        style: dict[str, Any] = {"marker": markers[index % len(markers)], "color": colour}
        style |= {"linestyle": "none", "markeredgewidth": 0.8}
        for row, value in enumerate(values):
            if isnan(value):
                continue
            face = colour if value > 0 else "white"
            axes.plot([value or floor], [row + offset], markerfacecolor=face, **style)
        if name in labels:
            axes.plot([], [], label=labels[name], **style)


def _floor(values: Sequence[float]) -> float:
    """Return where a logarithmic axis shows 0: a decade left of the smallest positive value."""
    positive = [value for value in values if value > 0]
    return min(positive) / 10 if positive else 1e-9


def _log_axis(axes: Axes, values: Sequence[float], ticks: int = 5) -> None:
    """Make the x axis logarithmic around `values`, with at most about `ticks` labels."""
    positive = [value for value in values if value > 0] or [1e-9]
    low = _floor(values) if 0 in values else min(positive)
    axes.set_xscale("log")
    axes.set_xlim(low / 5, max(positive) * 4)
    axes.xaxis.set_major_locator(LogLocator(numticks=ticks))
    axes.xaxis.set_minor_locator(NullLocator())


def _legend(axes: Axes) -> None:
    """Put the legend above `axes`, ending where it ends: it may reach over the row names."""
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=6,
        handlelength=1.1,
        columnspacing=0.7,
        handletextpad=0.3,
        borderpad=0.1,
    )


def _name_rows(axes: Axes, names: list[str]) -> None:
    """Name the rows of `axes`, the first at the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
