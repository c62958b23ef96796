"""A schedule as a trace file for https://ui.perfetto.dev or chrome://tracing (trace event format).

One process per core, one track per engine, one each for the triggers of DMAs and their transfers;
transfers that overlap are spread over several tracks. Times are in us.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .rows import Bar, bars

if TYPE_CHECKING:
    from .results import Prediction


def write(prediction: Prediction, path: Path) -> None:
    """Write the nominal schedule; the file appears when it is complete."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w") as file:
        json.dump({"traceEvents": list(_events(prediction)), "displayTimeUnit": "ns"}, file)
    partial.replace(path)


def _events(prediction: Prediction) -> Iterator[dict[str, Any]]:
    tracks: dict[tuple[int, str], int] = {}
    critical = {step.number for step in prediction.path}
    for bar in bars(prediction):
        key = bar.core, bar.track
        if key not in tracks:
            tracks[key] = len(tracks) + 1
            yield from _names(prediction, bar, tracks[key])
        yield _slice(prediction, bar, tracks[key], bar.number in critical)


def _names(prediction: Prediction, bar: Bar, track: int) -> Iterator[dict[str, Any]]:
    process = f"{prediction.kernel} on {prediction.platform}, core {bar.core} (modelled)"
    common = {"ph": "M", "pid": bar.core, "tid": track}
    yield common | {"name": "process_name", "args": {"name": process}}
    yield common | {"name": "thread_name", "args": {"name": bar.track}}


def _slice(prediction: Prediction, bar: Bar, track: int, critical: bool) -> dict[str, Any]:
    event = prediction.plan.events[bar.number]
    shapes = {
        o.role: f"{o.memory} {list(o.shape)} {o.dtype}{' ' + o.name if o.name else ''}"
        for o in event.operands
    }
    details = {"line": f"{event.file}:{event.line}", "number": bar.number, "critical": critical}
    return {
        "ph": "X",
        "name": event.name or event.opcode,
        "cat": event.opcode + (",critical" if critical else ""),
        "pid": bar.core,
        "tid": track,
        "ts": bar.begin_us,
        "dur": bar.time_us,
        "args": details | shapes,
    }
