"""Schedules a plan: engines in program order, DMAs and shared ports by arrival.

An instruction of an engine starts when its engine is free and its operands are there; that needs no
clock. What shares a resource with others (the queue that triggers DMAs, the 16 DMA engines of a
core, HBM, and on trn1 the ports to the memories) is served in the order of arrival: whenever
nothing else can be decided, the earliest arrival is the next one, because everything that is still
to come arrives later than some waiting one. Every start has one cause, the instruction that was
waited for last.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from .costs import Price, price
from .hardware import Values
from .plan import ORDER, RESULT_HERE, Plan, queue_of
from .tasks import Compute, Meeting, Transfer

_PORTS, _TRIGGER, _MOVE = 0, 1, 2
"""What an arrival in the heap waits for."""


@dataclass(slots=True)
class Timing:
    """When everything happens, in ns from the kernel's start.

    Attributes:
        start: of each instruction's work on its engine, or of its transfer's trigger.
        busy_end: it has left its engine, or its trigger the queue.
        moved: of a DMA, when its bytes began to move.
        end: its result can be read.
        cause: the instruction that its start was waiting for last, or -1.
        total: the end of the last one.
        busy: ns that each resource is occupied.
        serial: ns of everything, one after the other.
    """

    start: list[float]
    busy_end: list[float]
    moved: list[float]
    end: list[float]
    cause: list[int]
    total: float = 0.0
    busy: dict[str, float] = field(default_factory=dict)
    serial: float = 0.0


def schedule(plan: Plan, values: Values) -> Timing:
    """Times of all instructions with a scenario's constants."""
    return _Run(plan, values).run()


class _Run:
    """The state of one run. `ready` and `cause` are of the operands; `free` of the own queue."""

    def __init__(self, plan: Plan, values: Values) -> None:
        self.plan = plan
        self.values = values
        self.prices = [price(task, values) for task in plan.tasks]
        count = len(plan.events)
        start, busy_end, moved, end = ([0.0] * count for _ in range(4))
        self.timing = Timing(start, busy_end, moved, end, cause=[-1] * count)
        self.ready = [0.0] * count
        self.free = [0.0] * count
        self.previous = [-1] * count
        self.missing = list(plan.missing)
        self.successors = plan.successors
        reuse = plan.reuse[values["memory.reusable"]]
        if reuse:
            self.successors = list(plan.successors)
        for waiting, user, kind in reuse:
            self.successors[user] = [*self.successors[user], 4 * waiting + kind]
            self.missing[waiting] += 1
        self.stack = [n for n in range(count - 1, -1, -1) if not self.missing[n]]
        self.heap: list[tuple[float, int, int]] = []
        self.delay = values["semaphore.delay"]
        self.server: dict[object, tuple[float, int]] = {}
        self.ports = [self._ports_of(task) for task in plan.tasks]
        self.quick = [
            (cost.busy, cost.drain, cost.prelude) if type(task) is Compute and not ports else None
            for task, cost, ports in zip(plan.tasks, self.prices, self.ports, strict=True)
        ]
        self.waiting = {n: len(members) for n, members in plan.meetings.items()}

    def run(self) -> Timing:
        heap, stack = self.heap, self.stack
        while stack or heap:
            self._decide()
            if heap:
                arrival, number, stage = heapq.heappop(heap)
                if stage == _MOVE:
                    self._move(number, arrival)
                elif stage == _TRIGGER:
                    self._trigger(number, arrival)
                else:
                    self._use_ports(number, arrival)
        timing = self.timing
        if any(self.missing):
            raise RuntimeError("a launch whose instructions wait for each other")
        timing.total = max(timing.end, default=0.0)
        self._sum_up()
        return timing

    # -- instructions of engines -------------------------------------------------------------------

    def _decide(self) -> None:
        """Schedule all that waits for nothing any more.

        What an engine alone decides is done here, in one loop, because it is most of a kernel.
        """
        numbers, stack, timing = self.plan.numbers, self.stack, self.timing
        ready, free, cause, missing = self.ready, self.free, timing.cause, self.missing
        following, successors, delay = self.plan.following, self.successors, self.delay
        while stack:
            number = stack.pop()
            times = self.quick[numbers[number]]
            if times is None:
                self._begin(number)
                continue
            busy, drain, prelude = times
            start = free[number] + prelude
            if start > ready[number]:
                cause[number] = self.previous[number]
            else:
                start = ready[number]
            timing.start[number] = start
            busy_end = timing.busy_end[number] = start + busy
            end = timing.end[number] = busy_end + drain
            after = following[number]
            if after >= 0:
                free[after] = busy_end
                self.previous[after] = number
                missing[after] -= 1
                if not missing[after]:
                    stack.append(after)
            for code in successors[number]:
                waiting, kind = code >> 2, code & 3
                when = end if kind else busy_end
                if kind != RESULT_HERE:
                    when += delay
                if when > ready[waiting]:
                    ready[waiting] = when
                    cause[waiting] = number
                missing[waiting] -= 1
                if not missing[waiting]:
                    stack.append(waiting)

    def _begin(self, number: int) -> None:
        """All that an instruction waits for is there that shares something with others."""
        plan = self.plan
        kind = plan.numbers[number]
        task = plan.tasks[kind]
        if type(task) is Compute:
            start = self._own_start(number, self.prices[kind].prelude)
            heapq.heappush(self.heap, (start, number, _PORTS))
        elif type(task) is Transfer:
            self._arrive(number, task)
        else:
            self._meet(number)

    def _own_start(self, number: int, prelude: float = 0.0) -> float:
        """The earliest start by operands and queue; notes the cause."""
        ready, free = self.ready[number], self.free[number] + prelude
        if free > ready:
            self.timing.cause[number] = self.previous[number]
            return free
        return ready

    def _execute(self, number: int, start: float, cost: Price) -> None:
        timing = self.timing
        timing.start[number] = start
        busy_end = timing.busy_end[number] = start + cost.busy
        end = timing.end[number] = busy_end + cost.drain
        self._leave_queue(number, busy_end)
        self._release(number, busy_end, end)

    def _leave_queue(self, number: int, when: float) -> None:
        following = self.plan.following[number]
        if following >= 0:
            self.free[following] = when
            self.previous[following] = number
            self._one_less(following)

    def _release(self, number: int, read: float, result: float) -> None:
        """Tell those that wait for `number`."""
        ready, cause, missing = self.ready, self.timing.cause, self.missing
        for code in self.successors[number]:
            waiting, kind = code >> 2, code & 3
            if kind == RESULT_HERE:
                when = result
            else:
                when = (read if kind == ORDER else result) + self.delay
            if when > ready[waiting]:
                ready[waiting] = when
                cause[waiting] = number
            missing[waiting] -= 1
            if not missing[waiting]:
                self.stack.append(waiting)

    def _one_less(self, number: int) -> None:
        self.missing[number] -= 1
        if not self.missing[number]:
            self.stack.append(number)

    # -- shared ports ------------------------------------------------------------------------------

    def _ports_of(self, task: object) -> tuple[str, ...]:
        """The ports that an instruction needs for itself."""
        if not isinstance(task, Compute):
            return ()
        ports = []
        if self.values["memory.shared_port"] and task.engine in ("vector", "gpsimd"):
            ports.append("SBUF port")
        if self.values["memory.psum_turns"] and task.psum and task.engine in ("vector", "scalar"):
            ports.append("PSUM port")
        return tuple(ports)

    def _use_ports(self, number: int, start: float) -> None:
        kind = self.plan.numbers[number]
        cost, core = self.prices[kind], self.plan.core[number]
        for port in self.ports[kind]:
            start = self._wait_for((port, core), number, start)
        for port in self.ports[kind]:
            self.server[port, core] = (start + cost.busy, number)
        self._execute(number, start, cost)

    def _wait_for(self, resource: object, number: int, start: float) -> float:
        """When a resource is free, from `start` on; notes the cause."""
        free, holder = self.server.get(resource, (0.0, -1))
        if free > start:
            self.timing.cause[number] = holder
            return free
        return start

    # -- DMAs --------------------------------------------------------------------------------------

    def _arrive(self, number: int, task: Transfer) -> None:
        start = self._own_start(number)
        if task.issuer == "sync":
            heapq.heappush(self.heap, (start, number, _TRIGGER))
        else:
            self._issued(number, start)

    def _trigger(self, number: int, arrival: float) -> None:
        """Take the turn of the queue that triggers DMAs."""
        resource = ("DMA issue", self.plan.core[number])
        start = self._wait_for(resource, number, arrival)
        self.server[resource] = (start + self._cost(number).busy, number)
        self._issued(number, start)

    def _issued(self, number: int, start: float) -> None:
        cost, timing = self._cost(number), self.timing
        timing.start[number] = start
        busy_end = timing.busy_end[number] = start + cost.busy
        if queue_of(self.plan.task(number)) is not None:
            self._leave_queue(number, busy_end)
        heapq.heappush(self.heap, (busy_end + cost.start, number, _MOVE))

    def _move(self, number: int, arrival: float) -> None:
        """Take the turn of the core's DMA engines, and of HBM, which all cores share."""
        cost, timing, engines = (
            self._cost(number),
            self.timing,
            ("DMA engines", self.plan.core[number]),
        )
        free, holder = self.server.get(engines, (0.0, -1))
        begin = max(arrival, free)
        self.server[engines] = (begin + cost.share, number)
        end, bound_by = begin + cost.chain, holder if free > arrival else -1
        if cost.hbm:
            hbm_free, hbm_holder = self.server.get("HBM", (0.0, -1))
            served = max(arrival, hbm_free)
            self.server["HBM"] = (served + cost.hbm, number)
            if served + cost.hbm > end:
                begin, end = served, served + cost.hbm
                bound_by = hbm_holder if hbm_free > arrival else -1
        timing.moved[number] = begin
        if bound_by >= 0:
            timing.cause[number] = bound_by
        end = timing.end[number] = end + cost.drain
        self._release(number, end, end)

    def _cost(self, number: int) -> Price:
        return self.prices[self.plan.numbers[number]]

    # -- where cores meet --------------------------------------------------------------------------

    def _meet(self, number: int) -> None:
        timing, rendezvous = self.timing, self.plan.events[number].rendezvous
        timing.start[number] = self._own_start(number)
        members = self.plan.meetings.get(rendezvous)
        if members is None:  # a collective of a launch that was recorded alone
            self._execute(number, timing.start[number], self._cost(number))
            return
        self.waiting[rendezvous] -= 1
        if self.waiting[rendezvous]:
            return
        last = max(members, key=lambda one: (timing.start[one], -one))
        start = timing.start[last]
        for one in members:
            if timing.start[one] < start:
                timing.cause[one] = timing.cause[last]
            self._execute(one, start, self._cost(one))

    # -- sums --------------------------------------------------------------------------------------

    def _sum_up(self) -> None:
        """What each resource does, and all of it one after the other."""
        plan, timing = self.plan, self.timing
        counts: dict[tuple[int, int], int] = {}
        for kind, core in zip(plan.numbers, plan.core, strict=True):
            counts[kind, core] = counts.get((kind, core), 0) + 1
        suffix = plan.cores > 1
        for (kind, core), count in counts.items():
            task, cost = plan.tasks[kind], self.prices[kind]
            timing.serial += count * (cost.total + self.delay)
            for name, amount in _occupied(task, cost):
                name = f"{name} of core {core}" if suffix and name != "HBM" else name
                timing.busy[name] = timing.busy.get(name, 0.0) + count * amount


def _occupied(task: object, cost: Price) -> list[tuple[str, float]]:
    """The resources that a task occupies, and for how long."""
    if isinstance(task, Compute):
        return [(task.engine, cost.busy)]
    if isinstance(task, Meeting):
        return [(task.engine, cost.busy)] if task.engine != "dma" else []
    issue = "DMA issue" if task.issuer == "sync" else task.issuer  # type: ignore[attr-defined]
    return [(issue, cost.busy), ("DMA engines", cost.share), ("HBM", cost.hbm)]
