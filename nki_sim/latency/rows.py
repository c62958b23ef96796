"""A schedule as bars on tracks, for whoever draws it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .tasks import COMPUTE, Meeting, Transfer

if TYPE_CHECKING:
    from .results import Prediction

TRACKS = (*COMPUTE, "meeting", "DMA issue", "DMA")
"""From top to bottom; transfers that overlap are on ``DMA``, ``DMA 2``, ..."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that an instruction occupies: when, and where it is drawn."""

    core: int
    track: str
    number: int
    begin_us: float
    time_us: float

    @property
    def row(self) -> str:
        """The track, with all transfers on one."""
        return self.track if self.track in TRACKS else TRACKS[-1]


def bars(prediction: Prediction) -> Iterator[Bar]:
    """The bars of the nominal schedule, in program order on each core, transfers last."""
    plan, timing = prediction.plan, prediction.timing
    transfers: list[list[int]] = [[] for _ in range(plan.cores)]
    for number in range(len(plan.events)):
        task, core = plan.task(number), plan.core[number]
        begin, end = timing.start[number], timing.busy_end[number]
        if isinstance(task, Transfer):
            transfers[core].append(number)
            track = "DMA issue" if task.issuer == "sync" else task.issuer
        elif isinstance(task, Meeting):
            track = task.engine if task.engine != "dma" else "meeting"
        else:
            track = task.engine
        yield Bar(core, track, number, begin / 1e3, (end - begin) / 1e3)
    for core, numbers in enumerate(transfers):
        yield from _transfers(prediction, core, numbers)


def _transfers(prediction: Prediction, core: int, numbers: list[int]) -> Iterator[Bar]:
    """The transfers of a core, each on the first track that is free."""
    timing = prediction.timing
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    tracks = 0
    for number in sorted(numbers, key=lambda n: timing.moved[n]):
        begin, end = timing.moved[number], timing.end[number]
        while busy and busy[0][0] <= begin:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            track = heapq.heappop(free)
        else:
            tracks += 1
            track = tracks
        heapq.heappush(busy, (end, track))
        name = "DMA" if track == 1 else f"DMA {track}"
        yield Bar(core, name, number, begin / 1e3, (end - begin) / 1e3)
