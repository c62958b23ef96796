"""Where a program stands among the ranks of a run (`ranks.run`)."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from .schedule import Scheduler


@dataclass(slots=True)
class World:
    """The ranks of one run."""

    size: int
    scheduler: Scheduler


@dataclass(frozen=True, slots=True)
class Place:
    """One rank."""

    world: World
    rank: int


_place: ContextVar[Place | None] = ContextVar("nki_sim_rank", default=None)


def place() -> Place | None:
    """The rank that this thread runs, or None outside of `ranks.run`."""
    return _place.get()


def enter(where: Place) -> None:
    """Make this thread's context run `where`."""
    _place.set(where)
