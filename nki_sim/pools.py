"""Capacity of the on-chip memories, counted over the tensors that the kernel still holds.

The compiler gives the room of a tensor away after its last use, which a kernel that is just running
does not know yet. So where too much is held, all of it counts as free until an instruction uses it
(`Squeeze`): tensors that no instruction uses any more, or ever, need no room.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .dtypes import Array
from .errors import IllegalProgram
from .places import kernel_line

if TYPE_CHECKING:
    from .memory import Storage

Label = tuple[str, tuple[int, ...], str]
"""Name, shape and data type of a tensor."""


def describe(label: Label) -> str:
    """A tensor in words, for errors."""
    name, shape, dtype = label
    return f"{name or 'a tensor'} {shape} {dtype}"


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
class Squeeze:
    """An allocation for which there is room only if some tensors are not used any more.

    Attributes:
        label, amount: what was allocated, and what it needs.
        live: what the tensors held then, itself included, need that have been used since.
        idle: tensor number to amount, for those that have not.
    """

    label: Label
    amount: int
    idle: dict[int, int]
    live: int = 0


@dataclass(slots=True)
class Pool:
    """One on-chip memory.

    Every tensor is charged on all partitions, whatever its first dimension. That is an upper bound
    of what an allocator needs. Tensors at explicit addresses are charged for what they cover
    together (`spans`: tensor number to its units; `_layers`: how many tensors cover each unit).
    With `watched`, `at_peak` is who held it when most of it was held. `squeezes` are by the numbers
    of the tensors that they count on.
    """

    name: str
    capacity: int
    unit: str
    used: int = 0
    peak: int = 0
    holders: dict[int, tuple[Label, int]] = field(default_factory=dict)
    spans: dict[int, slice] = field(default_factory=dict)
    watched: bool = False
    places: dict[int, tuple[str, int]] = field(default_factory=dict)
    squeezes: dict[int, list[Squeeze]] = field(default_factory=dict)
    _layers: Array | None = None
    _storages: dict[int, weakref.ref[Storage]] = field(default_factory=dict)
    _peak_holders: dict[int, tuple[Label, int]] = field(default_factory=dict)

    @property
    def at_peak(self) -> list[Holder]:
        """The holders at the peak, in order of allocation; empty when it was not watched."""
        return [Holder(*h, *self.places[serial]) for serial, h in self._peak_holders.items()]

    def claim(self, storage: Storage, amount: int) -> None:
        """Give `amount` units to a tensor.

        Raises:
            IllegalProgram: the memory is smaller.
        """
        serial = storage.serial
        label = (storage.name, storage.shape, storage.dtype)
        if amount > self.capacity:
            raise self._no_room(label, amount, "alone")
        self.holders[serial] = (label, amount)
        self._storages[serial] = weakref.ref(storage)
        self.used += amount
        if self.used > self.capacity:
            self._squeeze(label, amount)
        if self.watched:
            self.places[serial] = kernel_line()
        if min(self.used, self.capacity) > self.peak:
            self.peak = min(self.used, self.capacity)
            if self.watched:
                self._peak_holders = dict(self.holders)

    def _squeeze(self, label: Label, amount: int) -> None:
        """Let all that is held count as free; it may turn out to be in use."""
        idle = {
            serial: held
            for serial, (_, held) in list(self.holders.items())  # storages may die meanwhile
            if self._storages[serial]() is not None
        }
        squeeze = Squeeze(label, amount, idle)
        for serial in idle:
            self.squeezes.setdefault(serial, []).append(squeeze)

    def use(self, serial: int) -> None:
        """Note that an instruction uses tensor number `serial`.

        Raises:
            IllegalProgram: so what was held together when room was short is more than there is.
        """
        for squeeze in self.squeezes.pop(serial, ()):
            squeeze.live += squeeze.idle.pop(serial)
            if squeeze.live > self.capacity:
                raise self._no_room(
                    squeeze.label,
                    squeeze.amount,
                    f"of {squeeze.live} that are held with it and used afterwards, here by "
                    f"{describe(self.holders[serial][0])}; held are {self.inventory()}",
                )

    def _no_room(self, label: Label, amount: int, among: str) -> IllegalProgram:
        return IllegalProgram(
            "nl.ndarray",
            f"the live tensors must fit into the {self.capacity} {self.unit} of {self.name}",
            f"{describe(label)}, which needs {amount} {among}",
            "use smaller tiles, or allocate in the loop so that earlier tiles are released",
        )

    def claim_span(self, storage: Storage, first: int, end: int) -> None:
        """Give the units from `first` to `end` to a tensor; they may be shared.

        Raises:
            IllegalProgram: the memory is smaller.
        """
        if self._layers is None:
            self._layers = np.zeros(self.capacity, np.int32)
        span = slice(first, end)
        self.claim(storage, end - first - int(np.count_nonzero(self._layers[span])))
        self._layers[span] += 1
        self.spans[storage.serial] = span

    def release(self, serial: int) -> None:
        """Take back what `claim` or `claim_span` gave."""
        amount = self.holders.pop(serial)[1]
        del self._storages[serial]
        for squeeze in self.squeezes.pop(serial, ()):
            del squeeze.idle[serial]
        span = self.spans.pop(serial, None)
        if span is not None:
            assert self._layers is not None
            layers = self._layers[span]
            layers -= 1
            amount = layers.size - int(np.count_nonzero(layers))
        self.used -= amount

    def inventory(self, longest: int = 6) -> str:
        """The largest holders, in words."""
        ranked = sorted(self.holders.values(), key=lambda holder: -holder[1])
        shown = ", ".join(f"{describe(label)}: {amount}" for label, amount in ranked[:longest])
        hidden = len(ranked) - longest
        return shown + (f" and {hidden} more" if hidden > 0 else "") or "nothing"
