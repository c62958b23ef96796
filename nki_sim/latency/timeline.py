"""A schedule as a figure (needs matplotlib): a row per engine and core, and the critical path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .hardware import HardwareError
from .rows import TRACKS, bars

if TYPE_CHECKING:
    from .results import Prediction

COLOURS = {
    "tensor": "#0072b2", "vector": "#009e73", "scalar": "#e69f00", "gpsimd": "#cc79a7",
    "sync": "#999999", "meeting": "#000000", "DMA issue": "#999999", "DMA": "#56b4e9",
}  # fmt: skip
CRITICAL = "#d55e00"


def write(prediction: Prediction, path: Path) -> None:
    """Draw the nominal schedule as PDF, PNG or SVG, by the file's suffix.

    Raises:
        HardwareError: matplotlib is not installed, or does not write such files.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise HardwareError("a timeline is drawn with matplotlib; pip install matplotlib") from None
    rows, canvas, axes = _draw(prediction, plt)
    axes.set_yticks([(i + 0.5) for i in range(len(rows))], [_label(prediction, r) for r in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, prediction.time_us.nominal or 1)
    axes.set_xlabel("us (modelled)")
    axes.set_title(
        f"{prediction.kernel} on {prediction.platform}: {prediction.time_us} us, "
        f"limited by {prediction.kind}",
        fontsize=9,
    )
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        canvas.savefig(partial)
    except ValueError as error:
        raise HardwareError(f"{path}: {error}") from None
    finally:
        plt.close(canvas)
    partial.replace(path)


def _draw(prediction: Prediction, plt: Any) -> tuple[list[tuple[int, str]], Any, Any]:
    """The figure with its bars, and its rows as (core, track)."""
    spans: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for bar in bars(prediction):
        spans.setdefault((bar.core, bar.row), []).append((bar.begin_us, bar.time_us))
    rows = sorted(spans, key=lambda row: (row[0], TRACKS.index(row[1])))
    canvas, axes = plt.subplots(figsize=(7.5, 0.8 + 0.32 * (len(rows) + 1)), layout="constrained")
    for place, row in enumerate(rows):
        alpha = 0.5 if row[1] == "DMA" else 1.0
        axes.broken_barh(
            spans[row], (place + 0.12, 0.76), facecolors=COLOURS[row[1]], alpha=alpha, linewidth=0
        )
    _mark_path(prediction, rows, axes)
    return [*rows, (-1, "critical path")], canvas, axes


def _mark_path(prediction: Prediction, rows: list[tuple[int, str]], axes: Any) -> None:
    """The critical path along the rows that it leads through, and in a row of its own."""
    marks: dict[int, list[tuple[float, float]]] = {}
    for step in prediction.path:
        place = _row_of(prediction, rows, step.number)
        if place is not None:
            marks.setdefault(place, []).append((step.begin_us, step.time_us))
    for place, spans in marks.items():
        axes.broken_barh(spans, (place + 0.88, 0.1), facecolors=CRITICAL, linewidth=0)
        axes.broken_barh(
            spans, (len(rows) + 0.3, 0.4), facecolors=COLOURS[rows[place][1]], linewidth=0
        )


def _row_of(prediction: Prediction, rows: list[tuple[int, str]], number: int) -> int | None:
    event = prediction.plan.events[number]
    track = "DMA" if event.opcode.startswith("dma_") else event.engine
    row = prediction.plan.core[number], track
    return rows.index(row) if row in rows else None


def _label(prediction: Prediction, row: tuple[int, str]) -> str:
    core, track = row
    return f"{track} {core}" if prediction.plan.cores > 1 and core >= 0 else track
