"""What ``profile`` says of a launch's time on the chip."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..latency import HardwareError, Prediction, predict
from ..latency.tasks import Meeting, Transfer
from .output import excerpt, table

if TYPE_CHECKING:
    from ..trace import Launch


def modelled(launch: Launch, platform: str, arguments: argparse.Namespace) -> str:
    """The sections on time; writes the files that were asked for."""
    try:
        found = predict(launch, platform)
        written = _write(found, arguments)
    except HardwareError as error:
        return f"time: not modelled: {error}"
    sections = [
        f"time, modelled for {platform}\n" + _time(found),
        "critical path by source line: what would help most\n" + _path(found, arguments.lines),
        *written,
    ]
    return "\n\n".join(sections)


def _write(found: Prediction, arguments: argparse.Namespace) -> list[str]:
    from ..latency import perfetto, timeline

    written = []
    if arguments.trace:
        perfetto.write(found, arguments.trace)
        written.append(f"trace: {arguments.trace} (open it in https://ui.perfetto.dev)")
    if arguments.timeline:
        timeline.write(found, arguments.timeline)
        written.append(f"timeline: {arguments.timeline}")
    return written


def _time(found: Prediction) -> str:
    limit = "latency: no resource is busy for most of it" if found.kind == "latency" else found.kind
    lines = [
        f"  {found.time_us} us; limited by {limit}",
        f"  bound: {found.bound_us:,.2f} us of {found.bound}; one after the other "
        f"{found.serial_us:,.2f} us",
        f"  not included: {found.launch_us} us around a program of its own, "
        f"{found.host_us} us of the host for each launch",
    ]
    if found.overfull:
        lines.append(f"  on-chip memory was overfull {found.overfull} times: expect spilling")
    rows = [(name, f"{100 * share:.1f} %") for name, share in found.occupancy.items()]
    uncertain = ", ".join(name for name in _assumed(found))
    return "\n".join([*lines, table(("busy", "share"), rows, left=1), f"  assumed: {uncertain}"])


def _assumed(found: Prediction) -> list[str]:
    """Assumptions about what this launch does."""
    tasks = found.plan.tasks
    kinds = {task.kind for task in tasks if isinstance(task, Meeting)}
    met = {"memory", *(task.engine for task in tasks if not isinstance(task, Transfer))}
    if any(isinstance(task, Transfer) for task in tasks):
        met.add("dma")
    if "collective" in kinds:
        met.add("collective")
    names = [n for n, one in found.assumptions.items() if one.confidence == "assumed"]
    barrier = ["semaphore.barrier"] if "core_barrier" in kinds else []
    return [n for n in names if n.split(".")[0] in met and n != "dma.static_issue"] + barrier


def _path(found: Prediction, limit: int) -> str:
    total = found.time_us.nominal or 1.0
    ranked = found.by_line()
    rows = [
        (
            f"{Path(file).name}:{line}", engine, steps, f"{us:,.2f}", f"{100 * us / total:.1f} %",
            excerpt(file, line, opcode),
        )
        for file, line, engine, opcode, steps, us in ranked[:limit]
    ]  # fmt: skip
    text = table(("line", "engine", "steps", "us", "share", "source"), rows, left=2)
    hidden = len(ranked) - limit
    return text + (f"\n  and {hidden} more lines" if hidden > 0 else "")
