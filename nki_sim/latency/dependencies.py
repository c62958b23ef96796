"""What each instruction of a core must wait for, from the bytes that instructions read and write.

Reads wait for writes (RAW), writes for reads (WAR) and for writes (WAW) of windows that share a
byte (`regions`), in program order; besides there are the dependencies that the kernel states.
Conservative, not exact, are two cases: windows with a dynamic offset may touch all of their
tensor, as for the compiler; and windows of tensors at explicit addresses whose first stride is not
a whole number of partitions count with all between their first and last byte.

The compiler gives on-chip memory away by liveness. So a tile waits for the last uses of earlier
tiles only where the memory would overflow otherwise: memory is taken first where nothing has been,
then where the tile lay whose last use comes first in program order (fragmentation is neglected).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..dtypes import TABLE
from ..machine import PSUM_BANK_BYTES
from .regions import Window, overlap, relative_window

if TYPE_CHECKING:
    from ..trace import Event, OperandEvent

Edges = list[tuple[int, bool]]
"""(earlier instruction, whether its result is waited for; else only that it has read)."""

_PITCH = 1 << 18
"""Bytes from partition to partition in the common numbering of addressed memory."""

_ANYWHERE: Window = (-(1 << 60), 1 << 60, 1 << 61, ())


class _Place:
    """One window of a memory: who wrote it last, and who has read it since (by lane)."""

    __slots__ = ("overlapping", "readers", "window", "writer")

    def __init__(self, window: Window) -> None:
        self.window = window
        self.writer = -1
        self.readers: dict[object, int] = {}
        self.overlapping: list[_Place] = [self]


class _Memory:
    """The windows of one allocation (or of all at explicit addresses) that were seen so far.

    Windows are found by buckets of addresses, so that the tiles of a large tensor are not all
    compared with each other.
    """

    __slots__ = ("buckets", "places", "waits", "wide", "width")

    def __init__(self) -> None:
        self.places: dict[object, _Place] = {}
        self.waits: list[Edges] = []
        self.width = 0
        self.buckets: dict[int, list[_Place]] = {}
        self.wide: list[_Place] = []

    def place(self, key: object, window: Window) -> _Place:
        """The place of a window, which is compared with the others when it is new."""
        place = self.places[key] = _Place(window)
        wide, numbers = True, range(0)
        if window is not _ANYWHERE:
            self.width = self.width or window[1] - window[0]
            numbers = range(window[0] // self.width, (window[1] - 1) // self.width + 1)
            wide = len(numbers) > 64
        near: Iterable[_Place] = self.wide
        if wide:
            near = [one for one in self.places.values() if one is not place]
        elif self.buckets:
            found = {id(one): one for n in numbers for one in self.buckets.get(n, ())}
            near = [*self.wide, *found.values()]
        for other in near:
            if overlap(window, other.window):
                place.overlapping.append(other)
                other.overlapping.append(place)
        if wide:
            self.wide.append(place)
        else:
            for n in numbers:
                self.buckets.setdefault(n, []).append(place)
        return place

    def users(self) -> Edges:
        """Who must be done before another tensor may lie here."""
        edges: Edges = []
        for place in self.places.values():
            if place.writer >= 0:
                edges.append((place.writer, True))
            edges += [(reader, False) for reader in place.readers.values()]
        return edges


@dataclass(slots=True)
class _Room:
    """An on-chip memory of a core, in bytes per partition or banks.

    Attributes:
        free: amounts, and who must be done before they may be used.
        dead: (last use, number of the tensor, amount) of the tensors placed so far, a heap.
        overfull: instructions at which not even the tensors in use fitted.
    """

    free: deque[tuple[int, Edges]]
    dead: list[tuple[int, int, int]] = field(default_factory=list)
    overfull: int = 0

    def claim(self, amount: int, now: int, memories: dict[object, _Memory]) -> Edges:
        """Who must be done before a tensor first used by instruction `now` may be written."""
        waits: Edges = []
        while amount > 0:
            if not self.free:
                if not self.dead or self.dead[0][0] >= now:
                    self.overfull += 1
                    break
                _, number, given = heapq.heappop(self.dead)
                self.free.append((given, memories[number].users()))
            room, users = self.free.popleft()
            waits += users
            if room > amount:
                self.free.appendleft((room - amount, users))
            amount -= room
        return waits


@dataclass(slots=True)
class Dependencies:
    """The result.

    Attributes:
        edges: per instruction, whatever the memories' sizes.
        reuse: for each of the given sizes, those that follow from it, as (waiting instruction,
            earlier one, whether its result is waited for).
        overfull: for each of them, how often a memory did not hold the tensors in use.
    """

    edges: list[Edges]
    reuse: list[list[tuple[int, int, bool]]]
    overfull: list[int]


def analyse(events: Sequence[Event], rooms: Sequence[tuple[int, int]]) -> Dependencies:
    """The dependencies of one core's instructions, numbered from 0.

    Args:
        events: its instructions in program order.
        rooms: sizes of the on-chip memories to find the dependencies for: bytes per partition of
            SBUF that tensors may use, and banks of PSUM.
    """
    return _Analysis(events, rooms).run()


class _Analysis:
    def __init__(self, events: Sequence[Event], rooms: Sequence[tuple[int, int]]) -> None:
        self.events = events
        self.memories: dict[object, _Memory] = {}
        self.known: dict[object, tuple[_Memory, _Place]] = {}
        self.rooms = {
            memory: [_Room(deque([(sizes[place], [])])) for sizes in rooms]
            for place, memory in enumerate(("sbuf", "psum"))
        }
        self.reuse: list[list[tuple[int, int, bool]]] = [[] for _ in rooms]
        self.written: set[int] = set()
        self.last: dict[int, int] = {}
        for number, event in enumerate(events):
            for operand in event.operands:
                if operand.access != "read":
                    self.written.add(operand.storage)
                self.last[operand.storage] = number

    def run(self) -> Dependencies:
        edges = [self._edges(number, event) for number, event in enumerate(self.events)]
        pairs = zip(*self.rooms.values(), strict=True)
        return Dependencies(edges, self.reuse, [sum(r.overfull for r in pair) for pair in pairs])

    def _edges(self, number: int, event: Event) -> Edges:
        """What instruction `number` waits for; and note what it accesses."""
        engine = event.engine
        lane: object = number if engine == "dma" else engine
        waits: dict[int, bool] = {}
        touched = []
        for operand in event.operands:
            if operand.storage not in self.written:
                continue  # nothing ever waits for a read of what nobody writes
            key = operand.storage, operand.offset, operand.shape, operand.strides, operand.dtype
            found = None if operand.dynamic else self.known.get(key)
            if found is None:
                memory = self._memory(operand, number)
                found = memory, self._place(memory, operand)
                if not operand.dynamic:
                    self.known[key] = found
            memory, place = found
            reads = operand.access == "read"
            touched.append((place, reads))
            for other in place.overlapping:
                if other.writer >= 0:
                    waits[other.writer] = True
                if not reads and other.readers:
                    for reader in other.readers.values():
                        waits.setdefault(reader, False)
            if memory.waits and place.writer < 0 and not reads:
                self._take_over(memory, number)
        for place, reads in touched:
            _note(place, reads, number, lane)
        if not waits:
            return []
        waits.pop(number, None)
        return self._needed(waits, engine)

    def _take_over(self, memory: _Memory, number: int) -> None:
        """Instruction `number` writes where other tensors lay."""
        for reuse, waits in zip(self.reuse, memory.waits, strict=True):
            reuse += [(number, user, result) for user, result in waits if user != number]

    def _needed(self, waits: dict[int, bool], engine: str) -> Edges:
        """Without what the order of instructions on one engine guarantees anyway."""
        events = self.events
        if engine == "dma":
            return list(waits.items())
        if engine == "tensor":
            return [(n, r) for n, r in waits.items() if events[n].engine != engine]
        return [(n, r) for n, r in waits.items() if r or events[n].engine != engine]

    def _memory(self, operand: OperandEvent, number: int) -> _Memory:
        addressed = operand.address is not None
        key: object = operand.memory if addressed else operand.storage
        memory = self.memories.get(key)
        if memory is None:
            memory = self.memories[key] = _Memory()
            rooms = self.rooms.get(operand.memory)
            if rooms is not None and not addressed:
                self._place_tensor(rooms, memory, operand, number)
        return memory

    def _place_tensor(
        self, rooms: list[_Room], memory: _Memory, operand: OperandEvent, number: int
    ) -> None:
        amount = operand.row_bytes
        if operand.memory == "psum":
            amount = -(-amount // PSUM_BANK_BYTES)
        waits = [_latest(room.claim(amount, number, self.memories), self.events) for room in rooms]
        memory.waits = waits if any(waits) else []
        for room in rooms:
            heapq.heappush(room.dead, (self.last[operand.storage], operand.storage, amount))

    def _place(self, memory: _Memory, operand: OperandEvent) -> _Place:
        if operand.dynamic:
            found = memory.places.get("anywhere")
            return found or memory.place("anywhere", _ANYWHERE)
        key = (operand.offset, operand.shape, operand.strides, operand.dtype, operand.address)
        found = memory.places.get(key)
        return found or memory.place(key, _window(operand))


def _note(place: _Place, reads: bool, number: int, lane: object) -> None:
    """Remember an access."""
    if reads:
        if place.writer != number:
            place.readers[lane] = number
        return
    first, end, _, outer = place.window
    for other in place.overlapping:
        if other is place or (not outer and first <= other.window[0] and other.window[1] <= end):
            other.writer = number
            other.readers.clear()


def _latest(waits: Edges, events: Sequence[Event]) -> Edges:
    """Of each engine that executes in order only the last instruction."""
    kept: dict[object, tuple[int, bool]] = {}
    for number, result in waits:
        engine = events[number].engine
        lane = number if engine == "dma" else (engine, result)
        if lane not in kept or kept[lane][0] < number:
            kept[lane] = (number, result)
    return list(kept.values())


def _window(operand: OperandEvent) -> Window:
    """The window of an operand, in bytes of its allocation or of the addressed memory."""
    itemsize = TABLE[operand.dtype].itemsize if operand.memory != "register" else 1
    start = operand.offset * itemsize
    if operand.address is None:
        first, end, run, outer = relative_window(operand.shape, operand.strides, itemsize)
        return first + start, end + start, run, outer
    row, column = divmod(start, operand.row_bytes)
    partition, byte = operand.address
    base = (partition + row) * _PITCH + byte + column
    steps, remainder = divmod(operand.strides[0] * itemsize, operand.row_bytes)
    if remainder:
        rows = -(-(operand.shape[0] * operand.strides[0] * itemsize) // operand.row_bytes)
        return base - column, base + rows * _PITCH, rows * _PITCH + column, ()
    strides = (steps * _PITCH // itemsize, *operand.strides[1:])
    first, end, run, outer = relative_window(operand.shape, strides, itemsize)
    return first + base, end + base, run, outer
