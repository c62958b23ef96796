"""The simulator's own errors: what the operation was, the rule, what was received, what to do.

The kinds tell a wrong kernel from a thin simulator: `IllegalProgram` (the hardware or its
compiler would refuse), `UninitialisedRead` (a legal instruction on meaningless data), `NotModelled`
(the simulator does not know), `NoNumbers` (values are asked of a launch on shapes).
"""

from __future__ import annotations


class SimulationError(RuntimeError):
    """Base of every error that the simulator raises about a kernel.

    Attributes:
        operation: the instruction or call, e.g. ``nc_matmul``.
        rule: what must hold.
        received: what was found instead.
        remedy: how to change the kernel.
    """

    def __init__(self, operation: str, rule: str, received: str = "", remedy: str = "") -> None:
        self.operation = operation
        self.rule = rule
        self.received = received
        self.remedy = remedy
        parts = [rule]
        if received:
            parts.append(f"received {received}")
        if remedy:
            parts.append(remedy)
        super().__init__(f"{operation}: {'; '.join(parts)}")

    def __reduce__(self) -> tuple[type[SimulationError], tuple[str, str, str, str]]:
        return type(self), (self.operation, self.rule, self.received, self.remedy)


class IllegalProgram(SimulationError):
    """The hardware or the NKI compiler would refuse this program."""


class UninitialisedRead(SimulationError):
    """An instruction reads, or a kernel returns, memory that nothing has written."""


class NoNumbers(SimulationError):
    """Something reads values of a launch that computes shapes only; the kernel may be right."""


class NotModelled(SimulationError):
    """A documented feature that this simulator does not carry; the kernel may be right."""
