"""Capacity of the on-chip memories, counted over the tensors that the kernel still holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .errors import IllegalProgram
from .places import kernel_line

Label = tuple[str, tuple[int, ...], str]
"""Name, shape and data type of a tensor."""


def describe(label: Label) -> str:
    """A tensor in words, for errors."""
    name, shape, dtype = label
    return f"{name or 'a tensor'} {shape} {dtype}"


def _covered(spans: Iterable[tuple[int, int]]) -> int:
    """Units that at least one span covers."""
    total = reach = 0
    for first, end in sorted(spans):
        total += max(end - max(first, reach), 0)
        reach = max(reach, end)
    return total


@dataclass(frozen=True, slots=True)
class Holder:
    """A tensor in an on-chip memory.

    Attributes:
        label, amount: what it is, and what it holds in the pool's unit.
        file, line: where the kernel allocates it.
    """

    label: Label
    amount: int
    file: str
    line: int


@dataclass(slots=True)
class Pool:
    """One on-chip memory.

    Every tensor is charged on all partitions, whatever its first dimension. That is an upper bound
    of what an allocator needs. Tensors at explicit addresses are charged for what they cover
    together (`spans`: tensor number to first and end unit). With `watched`, `at_peak` is who held
    it when most of it was held.
    """

    name: str
    capacity: int
    unit: str
    used: int = 0
    peak: int = 0
    holders: dict[int, tuple[Label, int]] = field(default_factory=dict)
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)
    watched: bool = False
    places: dict[int, tuple[str, int]] = field(default_factory=dict)
    _peak_holders: dict[int, tuple[Label, int]] = field(default_factory=dict)

    @property
    def at_peak(self) -> list[Holder]:
        """The holders at the peak, in order of allocation; empty when it was not watched."""
        return [Holder(*h, *self.places[serial]) for serial, h in self._peak_holders.items()]

    def claim(self, serial: int, label: Label, amount: int) -> None:
        """Give `amount` units to tensor number `serial`.

        Raises:
            IllegalProgram: it does not fit beside the tensors that are still alive.
        """
        if self.used + amount > self.capacity:
            raise IllegalProgram(
                "nl.ndarray",
                f"the live tensors must fit into the {self.capacity} {self.unit} of {self.name}",
                f"{describe(label)}, which needs {amount} while {self.used} are held by "
                f"{self.inventory()}",
                "use smaller tiles, or allocate in the loop so that earlier tiles are released",
            )
        self.holders[serial] = (label, amount)
        self.used += amount
        if self.watched:
            self.places[serial] = kernel_line()
        if self.used > self.peak:
            self.peak = self.used
            if self.watched:
                self._peak_holders = dict(self.holders)

    def claim_span(self, serial: int, label: Label, first: int, end: int) -> None:
        """Give the units from `first` to `end` to tensor number `serial`; they may be shared.

        Raises:
            IllegalProgram: what is new of them does not fit beside the tensors that are alive.
        """
        before = _covered(self.spans.values())
        spans = self.spans | {serial: (first, end)}
        self.claim(serial, label, _covered(spans.values()) - before)
        self.spans = spans

    def release(self, serial: int) -> None:
        """Take back what `claim` or `claim_span` gave."""
        amount = self.holders.pop(serial)[1]
        if serial in self.spans:
            before = _covered(self.spans.values())
            del self.spans[serial]
            amount = before - _covered(self.spans.values())
        self.used -= amount

    def inventory(self, longest: int = 6) -> str:
        """The largest holders, in words."""
        ranked = sorted(self.holders.values(), key=lambda holder: -holder[1])
        shown = ", ".join(f"{describe(label)}: {amount}" for label, amount in ranked[:longest])
        hidden = len(ranked) - longest
        return shown + (f" and {hidden} more" if hidden > 0 else "") or "nothing"
