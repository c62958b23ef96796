"""What a schedule says: time and its range, the bound, occupancies, the critical path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .hardware import FASTEST, NOMINAL, SLOWEST, Constant, Hardware

if TYPE_CHECKING:
    from .plan import Plan
    from .scheduler import Timing

LIMITED = 0.7
"""A resource that is busy for this share of the time is what limits a kernel."""


@dataclass(frozen=True, slots=True)
class Range:
    """A number with the range that follows from what is not known of the hardware."""

    low: float
    nominal: float
    high: float

    @classmethod
    def of(cls, fastest: float, nominal: float, slowest: float) -> Range:
        """From a number in each scenario, whose order a difference or a quotient may turn round."""
        ends = fastest, nominal, slowest
        return cls(min(ends), nominal, max(ends))

    def __str__(self) -> str:
        return f"{self.nominal:,.2f} ({self.low:,.2f} to {self.high:,.2f})"

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.nominal + other.nominal, self.high + other.high)

    def __sub__(self, other: Range) -> Range:
        """What remains in each scenario without `other`, which is a part of this one."""
        return Range.of(self.low - other.low, self.nominal - other.nominal, self.high - other.high)

    def __mul__(self, factor: float) -> Range:
        return Range.of(self.low * factor, self.nominal * factor, self.high * factor)

    def as_dict(self) -> dict[str, float]:
        """The three numbers by name."""
        return {"low": self.low, "nominal": self.nominal, "high": self.high}


@dataclass(frozen=True, slots=True)
class Step:
    """An instruction on the critical path.

    Attributes:
        number: of the instruction, over all cores.
        begin_us, time_us: when it became the one that was waited for, and for how long it was.
        engine, opcode, file, line: of the instruction.
    """

    number: int
    begin_us: float
    time_us: float
    engine: str
    opcode: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """The modelled time of one launch.

    Attributes:
        kernel, platform: what, and on which.
        time_us: from the first instruction to the last result.
        launch_us: what the device adds when the kernel is a program of its own.
        host_us: what the host adds for each launch of a program (per token, in decoding).
        bound_us: what the busiest resource needs, and so the least time of this program.
        bound: that resource: ``HBM``, ``DMA engines``, ``DMA issue`` or an engine.
        kind: `bound` if it is busy for most of the time, else ``latency``: what limits the kernel.
        occupancy: share of the time that each resource is busy.
        serial_us: everything, one after the other.
        path: the critical path, first instruction first.
        assumptions: the constants behind the range.
        overfull: how often the tensors in use did not fit into an on-chip memory.
        plan, timing: the nominal schedule.
    """

    kernel: str
    platform: str
    time_us: Range
    launch_us: Range
    host_us: Range
    bound_us: float
    bound: str
    occupancy: dict[str, float]
    serial_us: float
    path: list[Step]
    assumptions: dict[str, Constant]
    overfull: int
    plan: Plan
    timing: Timing

    @property
    def kind(self) -> str:
        """What limits the kernel."""
        return self.bound if self.bound_us >= LIMITED * self.time_us.nominal else "latency"

    def by_line(self) -> list[tuple[str, int, str, str, int, float]]:
        """Of the critical path, per source line: file, line, engine, opcode, steps, us; the longest
        first.
        """
        sums: dict[tuple[str, int, str, str], list[float]] = {}
        for step in self.path:
            row = sums.setdefault((step.file, step.line, step.engine, step.opcode), [0, 0.0])
            row[0] += 1
            row[1] += step.time_us
        ranked = sorted(sums.items(), key=lambda one: (-one[1][1], one[0]))
        return [(*key, int(row[0]), row[1]) for key, row in ranked]

    def as_dict(self) -> dict[str, Any]:
        """The numbers without the schedule, for JSON."""
        return {
            "kernel": self.kernel,
            "platform": self.platform,
            "basis": "modelled",
            "time_us": self.time_us.as_dict(),
            "launch_us": self.launch_us.as_dict(),
            "host_us": self.host_us.as_dict(),
            "bound_us": self.bound_us,
            "bound": self.bound,
            "kind": self.kind,
            "serial_us": self.serial_us,
            "occupancy": self.occupancy,
        }


def assemble(kernel: str, hardware: Hardware, plan: Plan, timings: dict[str, Timing]) -> Prediction:
    """The prediction from the schedules of all scenarios."""
    nominal = timings[NOMINAL]
    total = nominal.total
    bound = max(nominal.busy, key=lambda name: nominal.busy[name], default="latency")
    ends = [timing.total for timing in timings.values()]
    return Prediction(
        kernel,
        hardware.platform,
        Range(min(ends) / 1e3, total / 1e3, max(ends) / 1e3),
        _range(hardware, "launch.device"),
        _range(hardware, "launch.host"),
        nominal.busy.get(bound, 0.0) / 1e3,
        bound,
        {name: busy / total if total else 0.0 for name, busy in sorted(nominal.busy.items())},
        nominal.serial / 1e3,
        critical_path(plan, nominal),
        hardware.assumptions(),
        plan.overfull[hardware.values()["memory.reusable"]],
        plan,
        nominal,
    )


def _range(hardware: Hardware, name: str) -> Range:
    constant = hardware.constants[name]
    ends = [getattr(constant, end) / 1e3 for end in (FASTEST, SLOWEST)]
    return Range(min(ends), constant.value / 1e3, max(ends))


def critical_path(plan: Plan, timing: Timing) -> list[Step]:
    """The chain of instructions, each of which waited for the one before, that ends last.

    Of a chain's total time each instruction has the part until the next one took over.
    """
    if not timing.end:
        return []
    number = max(range(len(timing.end)), key=lambda n: timing.end[n])
    until, steps = timing.end[number], []
    while number >= 0:
        cause = timing.cause[number]
        begin = min(_begin(timing, number, cause), until)
        event = plan.events[number]
        steps.append(
            Step(
                number, begin / 1e3, (until - begin) / 1e3,
                event.engine, event.opcode, event.file, event.line,
            )
        )  # fmt: skip
        until, number = begin, cause
    return steps[::-1]


def _begin(timing: Timing, number: int, cause: int) -> float:
    """From when on an instruction itself was waited for: a DMA that waited for another one's bytes
    only since these had moved.
    """
    if cause >= 0 and timing.moved[cause] and timing.moved[number] > timing.start[number]:
        shares = timing.end[cause] > timing.start[number]
        return timing.moved[number] if shares else timing.start[number]
    return timing.start[number]
