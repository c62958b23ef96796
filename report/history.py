"""The history of records as a figure: one panel per quantity, one line per setting.

Drawn from the data that `evaluation.history_table` makes. Points stand in the order of the records,
a triangle marks one where something of the panel's kind is worse than before, beyond its noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from report.drawing import COLOURS, STYLE, save

PANELS = {
    "nki_total_score": "score with NKI",
    "worst_fraction_of_tolerance": "worst error / tolerance",
    "launches_per_decode_step": "launches per decode step",
    "instructions": "instructions",
    "macs": "MACs",
    "hbm_bytes": "HBM bytes",
    "modelled_decode_us": "modelled decode step, fused (µs)",
}
"""Quantities in the order of the panels; one without any value is left out."""

_CHANGES_OF = {
    "nki_total_score": "latency",
    "worst_fraction_of_tolerance": "summary.",
    "launches_per_decode_step": "launches",
    "instructions": "instructions",
    "macs": " macs",
    "hbm_bytes": " hbm_",
    "modelled_decode_us": "fused decode step",
}
"""What the names of the changes hold that a panel marks."""

_WORSE = "#d55e00"
_WIDTH_IN, _PANEL_IN = 6.8, 1.0

Record = dict[str, Any]


def draw(content: dict[str, Any]) -> Figure:
    """Return the figure of a history; ValueError without a record."""
    records = content["records"]
    if not records:
        raise ValueError("a history without records cannot be drawn")
    shown = [name for name in PANELS if any(r["figures"][name] is not None for r in records)]
    figure = Figure(figsize=(_WIDTH_IN, 1.1 + _PANEL_IN * len(shown)))
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    settings = list(dict.fromkeys(record["setting"] for record in records))
    for axes, name in zip(panels, shown, strict=True):
        for number, setting in enumerate(settings):
            _line(axes, records, name, setting, COLOURS[number % len(COLOURS)])
        axes.set_title(PANELS[name], loc="left")
        axes.grid(axis="y")
    panels[-1].set_xticks(range(len(records)), [r["commit"] for r in records], rotation=60)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left")
    return figure


def _line(axes: Axes, records: Sequence[Record], name: str, setting: str, colour: str) -> None:
    """Draw one quantity over the records of one setting, scores with their intervals."""
    axes.plot([], [], marker="o", color=colour, label=setting)
    points = [
        (place, record)
        for place, record in enumerate(records)
        if record["setting"] == setting and record["figures"][name] is not None
    ]
    places = [place for place, _ in points]
    values = [record["figures"][name] for _, record in points]
    axes.plot(places, values, marker="o", color=colour)
    for place, record in points:
        value, ends = record["figures"][name], record["score_interval"]
        if name == "nki_total_score" and ends:
            axes.plot([place, place], ends, color=colour)
        worse = [c["figure"] for c in record["changes"] if c["verdict"] == "worse"]
        if any(_CHANGES_OF[name] in figure for figure in worse):
            axes.plot([place], [value], marker="v", markersize=7, color=_WORSE, zorder=3)


def plot(content: dict[str, Any], pdf: Path, png: Path) -> None:
    """Draw the history and write it to `pdf` and `png`, both without dates."""
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        save(draw(content), "history", pdf, png)
