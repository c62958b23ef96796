"""What the report's figures share: type, colours, axes, and how points are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO
from math import cos, isnan, pi, sin
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from matplotlib.ticker import LogLocator, NullLocator

from evaluation.files import write_atomically

COLUMN_IN = 3.3
"""Width of one text column, in inches."""

LABEL_IN = 1.35
"""Width that a row's name may take."""

_LONGEST = 100
"""Characters beyond which no name fits, so that they need not be measured."""

_REACHES = (1.9, 3.2, 4.5, 6.0, 8.0)
"""How far from its point a number may stand, in halves of its own size."""

_PNG_DPI = 200
DARK, ORANGE, SKY, GREEN, PINK, YELLOW = (
    "#0b4f7d", "#e69f00", "#7cc4ee", "#009e73", "#cc79a7", "#f0e442",
)  # fmt: skip
GREY = "#5b5b5b"
MARKERS = ("o", "s", "^", "D", "v", "P")
COLOURS = (DARK, ORANGE, SKY, GREEN, PINK, YELLOW)

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


def without(axes: Axes, reason: str) -> Figure:
    """Return the figure of `axes`, which says why it is empty."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, reason, ha="center", va="center", transform=axes.transAxes)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return figure


RECORD_KEY = "RecordSHA256"
"""Where a picture's metadata, like the PDF's, name the record."""


def save(figure: Figure, title: str, pdf: Path, png: Path, record_sha256: str = "") -> None:
    """Write a figure as a PDF (for the report) and a PNG (for a web page), both without dates.

    The PNG carries the hash of the record that it is drawn from, where that is one.
    """
    source = {RECORD_KEY: record_sha256} if record_sha256 else {}
    for path, options in (
        (pdf, {"format": "pdf", "metadata": {"CreationDate": None, "Title": title}}),
        (png, {"format": "png", "dpi": _PNG_DPI, "metadata": {"Title": title} | source}),
    ):
        buffer = BytesIO()
        figure.savefig(buffer, **options)
        write_atomically(path, buffer.getvalue())


def column_figure(height_in: float) -> Figure:
    """Return an empty figure as wide as a column."""
    return Figure(figsize=(COLUMN_IN, height_in))


def short(text: str, width_in: float = LABEL_IN) -> str:
    """Return `text` cut to a width at the size of a row name, without Matplotlib mathematics."""
    letters = FontProperties(family=STYLE["font.family"], size=STYLE["ytick.labelsize"])

    def fits(shown: str) -> bool:
        width_pt, _, _ = TextToPath().get_text_width_height_descent(shown, letters, False)
        return bool(width_pt <= 72.0 * width_in)

    shown, kept = text, min(len(text), _LONGEST)
    while len(text) > _LONGEST == kept or not fits(shown):
        kept -= 1
        shown = f"{text[:kept].rstrip()}\N{HORIZONTAL ELLIPSIS}"
    return shown.replace("$", r"\$")


def flat(series: Iterable[Sequence[float]]) -> list[float]:
    """Return the values of all series in one list."""
    return [value for values in series for value in values]


def dots(
    axes: Axes,
    series: dict[str, list[float]],
    labels: dict[str, str],
    floor: float,
    *,
    markers: Sequence[str] = MARKERS,
    colours: Sequence[str] = COLOURS,
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


def floor(values: Sequence[float]) -> float:
    """Return where a logarithmic axis shows 0: a decade left of the smallest positive value."""
    positive = [value for value in values if value > 0]
    return min(positive) / 10 if positive else 1e-9


def log_axis(axes: Axes, values: Sequence[float], ticks: int = 5) -> None:
    """Make the x axis logarithmic around `values`, with at most about `ticks` labels."""
    positive = [value for value in values if value > 0] or [1e-9]
    low = floor(values) if 0 in values else min(positive)
    axes.set_xscale("log")
    axes.set_xlim(low / 5, max(positive) * 4)
    axes.xaxis.set_major_locator(LogLocator(numticks=ticks))
    axes.xaxis.set_minor_locator(NullLocator())


def legend(axes: Axes) -> None:
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


def name_rows(axes: Axes, names: list[str]) -> None:
    """Name the rows of `axes`, the first at the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)


def number_points(axes: Axes, places: Sequence[tuple[float, float]]) -> None:
    """Number the points of `axes` from 1, each beside its point, on nothing else.

    A number goes to the nearest free place around its point, with a line where that is not beside
    it; limits and layout of the figure must be final.
    """
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    points = [axes.transData.transform(place) for place in places]
    half = np.array([3.4, 3.4]) * figure.dpi / 72.0
    taken = list(points)
    turns = [np.array([cos(a), sin(a)]) for a in np.linspace(0.0, 2.0 * pi, 16, endpoint=False)]
    for number, (place, point) in enumerate(zip(places, points, strict=True), 1):
        spots = [(reach, point + reach * half * turn) for reach in _REACHES for turn in turns]
        free = (s for s in spots if all((abs(s[1] - other) > 1.7 * half).any() for other in taken))
        reach, spot = next(free, spots[-1])
        taken.append(spot)
        offset = (spot - point) * 72.0 / figure.dpi
        line = {"arrowstyle": "-", "linewidth": 0.4, "color": GREY, "shrinkA": 0, "shrinkB": 2}
        axes.annotate(
            str(number), place, offset, textcoords="offset points", fontsize=7, ha="center",
            va="center", arrowprops=line if reach > _REACHES[0] else None,
        )  # fmt: skip
