"""A place to stand between instructions and their execution: what debugging reports are made with.

A watcher runs each instruction in the simulator's place (and may look at its operands before and
after), and sees what a launch returns before it is converted for the caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .engines.base import Instruction
    from .machine import Program
    from .views import NkiTensor


class Watcher(Protocol):
    """What `watch` takes.

    Attributes:
        precise: False keeps low-precision floats as fp32, as NKI_PRECISE_FP=0 does.
    """

    precise: bool

    def run(self, instruction: Instruction, program: Program) -> None:
        """Execute a checked instruction, by its own `run`."""

    def output(self, result: NkiTensor) -> None:
        """See a tensor that a kernel returns."""


_watcher: ContextVar[Watcher | None] = ContextVar("nki_sim_watcher", default=None)


def watching() -> Watcher | None:
    """The watcher of the next launch, if any."""
    return _watcher.get()


@contextmanager
def watch(watcher: Watcher) -> Iterator[None]:
    """Let `watcher` see the launches inside the ``with``."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)
