"""Capacity of the on-chip memories, counted over the tensors that the kernel still holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from .errors import IllegalProgram

Label = tuple[str, tuple[int, ...], str]
"""Name, shape and data type of a tensor."""


def describe(label: Label) -> str:
    """A tensor in words, for errors."""
    name, shape, dtype = label
    return f"{name or 'a tensor'} {shape} {dtype}"


@dataclass(slots=True)
class Pool:
    """One on-chip memory.

    Every tensor is charged on all partitions, whatever its first dimension. That is an upper bound
    of what an allocator needs.
    """

    name: str
    capacity: int
    unit: str
    used: int = 0
    peak: int = 0
    holders: dict[int, tuple[Label, int]] = field(default_factory=dict)

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
        if self.used > self.peak:
            self.peak = self.used

    def release(self, serial: int) -> None:
        """Take back what `claim` gave."""
        self.used -= self.holders.pop(serial)[1]

    def inventory(self, longest: int = 6) -> str:
        """The largest holders, in words."""
        ranked = sorted(self.holders.values(), key=lambda holder: -holder[1])
        shown = ", ".join(f"{describe(label)}: {amount}" for label, amount in ranked[:longest])
        hidden = len(ranked) - longest
        return shown + (f" and {hidden} more" if hidden > 0 else "") or "nothing"
