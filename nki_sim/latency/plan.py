"""A launch as the scheduler sees it: tasks, queues, and who waits for whom, on all its cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .dependencies import analyse
from .hardware import Values
from .tasks import COMPUTE, Compute, Meeting, Task, Transfer, stream_of

if TYPE_CHECKING:
    from ..trace import Event, Launch

ENGINES = (*COMPUTE, "dma")

ORDER, RESULT, RESULT_HERE = 0, 1, 2
"""What an edge waits for: that another engine has read; its result; the own engine's result."""


@dataclass(slots=True)
class Plan:
    """What is known of a launch before any constant is.

    Instructions are numbered over all cores: those of core 0, then those of core 1.

    Attributes:
        events: the instructions.
        tasks: the distinct tasks.
        numbers: which task each instruction is.
        cores: how many cores there are.
        core: of each instruction.
        following: the next instruction in the same in-order queue, or -1.
        successors: of each instruction, 4 * waiting instruction + kind of edge.
        missing: of each instruction, how many edges and queue predecessors it waits for.
        meetings: the members of each rendezvous.
        reuse: by share of the on-chip memories that tensors may use, what follows from that: (who
            waits, who is waited for, kind of edge), and how often the tensors in use did not fit.
    """

    events: list[Event] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    cores: int = 0
    core: list[int] = field(default_factory=list)
    following: list[int] = field(default_factory=list)
    successors: list[list[int]] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    meetings: dict[int, list[int]] = field(default_factory=dict)
    reuse: dict[float, list[tuple[int, int, int]]] = field(default_factory=dict)
    overfull: dict[float, int] = field(default_factory=dict)

    def task(self, number: int) -> Task:
        """The task of an instruction."""
        return self.tasks[self.numbers[number]]


def plan_of(launch: Launch, scenarios: Sequence[Values]) -> Plan:
    """The plan of a recorded launch, for on-chip memories of all scenarios' sizes."""
    plan = Plan()
    rooms = {
        values["memory.reusable"]: (values["memory.sbuf"], values["memory.psum"])
        for values in scenarios
    }
    plan.reuse = {share: [] for share in rooms}
    plan.overfull = dict.fromkeys(rooms, 0)
    sizes = [(int(sbuf * share), max(int(psum), 1)) for share, (sbuf, psum) in rooms.items()]
    for core in launch.cores or [launch]:
        _add_core(plan, core.instructions, core.dependencies, sizes)
    return plan


def _add_core(
    plan: Plan,
    events: Sequence[Event],
    stated: Sequence[tuple[int, int]],
    sizes: Sequence[tuple[int, int]],
) -> None:
    first, count = len(plan.events), len(events)
    stream = stream_of(events)
    offset = len(plan.tasks)
    plan.tasks += stream.tasks
    plan.numbers += [number + offset for number in stream.numbers]
    plan.events += events
    plan.core += [plan.cores] * count
    plan.cores += 1
    plan.missing += [0] * count
    plan.successors += [[] for _ in events]
    _add_queues(plan, first)
    found = analyse(events, sizes)
    for number, edges in enumerate(found.edges):
        for earlier, result in edges:
            _add_edge(plan, first + number, first + earlier, result)
    for waiting, earlier in stated:
        _add_edge(plan, first + waiting, first + earlier, True)
    for share, reuse, overfull in zip(plan.reuse, found.reuse, found.overfull, strict=True):
        plan.overfull[share] += overfull
        for number, earlier, result in reuse:
            waiting, user = first + number, first + earlier
            plan.reuse[share].append((waiting, user, _kind(plan, waiting, user, result)))


def _add_queues(plan: Plan, first: int) -> None:
    """The in-order queues of a core: one per engine that has a queue of its own."""
    last: dict[str, int] = {}
    plan.following += [-1] * (len(plan.events) - first)
    for number in range(first, len(plan.events)):
        task = plan.task(number)
        if isinstance(task, Meeting) and (rendezvous := plan.events[number].rendezvous):
            plan.meetings.setdefault(rendezvous, []).append(number)
        queue = queue_of(task)
        if queue is None:
            continue
        if queue in last:
            plan.following[last[queue]] = number
            plan.missing[number] += 1
        last[queue] = number


def queue_of(task: Task) -> str | None:
    """The engine that executes a task in program order; None for what the DMA queues take when
    it is ready.
    """
    if isinstance(task, Compute):
        return task.engine
    if isinstance(task, Transfer):
        return None if task.issuer == "sync" else task.issuer
    return task.engine if task.engine != "dma" else None


def _add_edge(plan: Plan, waiting: int, earlier: int, result: bool) -> None:
    plan.successors[earlier].append(4 * waiting + _kind(plan, waiting, earlier, result))
    plan.missing[waiting] += 1


def _kind(plan: Plan, waiting: int, earlier: int, result: bool) -> int:
    """What `waiting` waits for."""
    if not result:
        return ORDER
    task = plan.task(earlier)
    here = isinstance(task, Compute) and queue_of(plan.task(waiting)) == task.engine
    return RESULT_HERE if here else RESULT
