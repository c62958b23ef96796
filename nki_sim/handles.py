"""What a call of ``nki.isa`` returns: a handle on the instruction, to order others after it."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from .errors import IllegalProgram, NotModelled

if TYPE_CHECKING:
    from .trace import Launch


class Dependency(Enum):
    """Kinds of an explicit dependency: a semaphore at run time, or an order for the scheduler."""

    runtime = "runtime"
    schedule = "schedule"


class NkiInstruction:
    """An instruction of a launch.

    Attributes:
        launch: the account it belongs to.
        number: its position in program order.
        opcode: name in nki.isa.
    """

    __slots__ = ("launch", "number", "opcode")

    def __init__(self, launch: Launch, number: int, opcode: str) -> None:
        self.launch = launch
        self.number = number
        self.opcode = opcode

    def __repr__(self) -> str:
        return f"<instruction {self.number} {self.opcode}>"

    def depends_on(
        self, *producers: NkiInstruction, kind: Dependency | None = None
    ) -> NkiInstruction:
        """Run this instruction after each of `producers`; noted in the launch's account.

        Results do not change: instructions execute in program order here.

        Args:
            producers: instructions of the same launch, issued earlier.
            kind: of the dependency; None is `Dependency.runtime`.
        """
        if kind is not None and not isinstance(kind, Dependency):
            raise IllegalProgram("depends_on", "kind is a member of nisa.dependency", repr(kind))
        for producer in producers:
            self._add(producer)
        return self

    def _add(self, producer: object) -> None:
        if not isinstance(producer, NkiInstruction) or producer.launch is not self.launch:
            raise IllegalProgram(
                "depends_on", "takes instructions of the same launch", repr(producer)
            )
        if producer.number == self.number:
            raise IllegalProgram(
                "depends_on", "no instruction waits for itself", repr(self), "name another one"
            )
        if producer.number > self.number:
            raise NotModelled(
                "depends_on",
                "waiting for an instruction that is issued later is not modelled",
                f"{self} after {producer}",
                "issue the producer first",
            )
        self.launch.dependencies.append((self.number, producer.number))
