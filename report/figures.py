"""The report's figures, each drawn from the results record alone, and their table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from evaluation.files import read_json, sha256_file
from report.drawing import (
    COLOURS,
    DARK,
    GREY,
    MARKERS,
    STYLE,
    column_figure,
    dots,
    flat,
    floor,
    log_axis,
    name_rows,
    save,
    short,
    without,
)
from report.facts import PHASES, accuracy_of, drift_by_layer, runs, top_k_entry, top_k_keys
from report.fields import Fields
from report.modelled_figures import (
    layer_timeline,
    predicted_against_published,
    roofline,
    scores,
    token_time,
    tuning_ladder,
)


def accuracy_margin(record: Fields) -> Figure:
    """Worst relative logit error against the tolerance (left), error against decision gap (right).

    Axes are logarithmic. An error of 0 stands at the left edge, hollow.
    """
    prompts = record["per_prompt_results"]
    figure = column_figure(0.8 + 0.22 * len(prompts))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
    _draw_tolerances(left, prompts, top_k_keys(record))
    left.set_xlabel("worst relative error")
    _draw_gaps(right, prompts)
    right.set_xlabel("logits")
    name_rows(left, [short(prompt["name"]) for prompt in prompts])
    figure.legend(loc="outside upper center", ncols=5, handlelength=1.5, columnspacing=0.9)
    return figure


def _draw_tolerances(axes: Axes, prompts: list[Fields], keys: list[str]) -> None:
    """Draw each prompt's worst relative error in each top-k set, and the tolerances dashed."""
    entries = {key: [top_k_entry(prompt, key) for prompt in prompts] for key in keys}
    errors = {key: [entry["worst_relative_error"] for entry in entries[key]] for key in keys}
    tolerances = {entry["relative_tolerance"] for row in entries.values() for entry in row}
    for tolerance in sorted(tolerances):
        axes.axvline(tolerance, color=GREY, linewidth=0.9, linestyle=(0, (3, 1.5)))
    values = [*flat(errors.values()), *tolerances]
    labels = {key: key if key == "all" else f"top {key}" for key in keys}
    dots(axes, errors, labels, floor(values), spread=0.56)
    axes.plot([], [], color=GREY, linewidth=0.9, linestyle=(0, (3, 1.5)), label="tolerance")
    log_axis(axes, values)


def _draw_gaps(axes: Axes, prompts: list[Fields]) -> None:
    """Join each prompt's largest logit error to the smallest lead of the baseline's choice."""
    errors = [accuracy_of(prompt)["max_abs_logit_error"] for prompt in prompts]
    gaps = [accuracy_of(prompt)["smallest_baseline_gap"] for prompt in prompts]
    lowest = floor([*errors, *gaps])
    for row, (error, gap) in enumerate(zip(errors, gaps, strict=True)):
        axes.plot(
            [error or lowest, gap or lowest], [row, row], color="#b0b0b0", linewidth=1.2, zorder=1
        )
    series = {"largest error": errors, "smallest gap": gaps}
    dots(axes, series, {}, lowest, markers=("o", "d"), colours=(DARK, "black"), spread=0.0)
    log_axis(axes, flat(series.values()), ticks=4)
    for name, value in (("error", errors[0] or lowest), ("gap", gaps[0] or lowest)):
        axes.annotate(name, (value, 0), (0, 4), textcoords="offset points", ha="center", fontsize=7)


def drift(record: Fields) -> Figure:
    """Relative distance from the baseline's hidden state after each layer, by phase and run."""
    found = runs(record)
    figure = column_figure(1.6)
    if not found:
        return without(figure.subplots(), "no drift in this record")
    pair = figure.subplots(1, 2, sharey=True)
    lowest = floor([v for *_run, r in found for phase in PHASES for v in drift_by_layer(r, phase)])
    for axes, (phase, title) in zip(pair, PHASES.items(), strict=True):
        for index, (path, dtype, results) in enumerate(found):
            values = [value or lowest for value in drift_by_layer(results, phase)]
            style = {"marker": MARKERS[index % 6], "color": COLOURS[index % 6], "linewidth": 0.8}
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


FIGURES: dict[str, Callable[[Fields], Figure]] = {
    "accuracy_margin": accuracy_margin,
    "drift": drift,
    "scores": scores,
    "token_time": token_time,
    "tuning_ladder": tuning_ladder,
    "layer_timeline": layer_timeline,
    "roofline": roofline,
    "predicted_against_published": predicted_against_published,
}
"""Every figure of the report by name; the files are called after it."""


def plot(name: str, record_path: Path, pdf_path: Path, png_path: Path) -> None:
    """Draw the figure `name` into a PDF (for the report) and a PNG (for a web page).

    The PNG's metadata hold the record's hash.
    """
    if name not in FIGURES:
        raise ValueError(f"unknown figure {name!r}; known: {', '.join(FIGURES)}")
    record = Fields(read_json(record_path))
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        save(FIGURES[name](record), name, pdf_path, png_path, sha256_file(record_path))
