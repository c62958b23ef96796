"""What the instructions of a launch ask of the hardware, before any constant is known.

A `Task` holds only what decides an instruction's time, so that equal instructions share one; the
constants of a scenario turn each distinct task into times (`costs`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..constants import HBM, DgeMode, Engine
from ..descriptors import _run
from ..dtypes import TABLE

if TYPE_CHECKING:
    from ..trace import Event, OperandEvent

HBM_NAMES = tuple(region.name for region in HBM)
ON_CHIP_NAMES = ("sbuf", "psum")
HALVES = ("bfloat16", "float16")
COMPUTE = ("tensor", "vector", "scalar", "gpsimd", "sync")
NO_TABLE = ("copy",)
"""Activation functions that need no table."""

_FOUR = ("tensor_copy", "tensor_scalar")
_LONGEST_DESCRIPTOR = 65536
_DMA_OPCODES = ("dma_copy", "dma_transpose", "dma_compute")


@dataclass(frozen=True, slots=True)
class Compute:
    """An instruction of an engine that computes.

    Attributes:
        engine, opcode: of the event.
        cycles: by the published formula.
        mode: how many times faster the vector engine (or, from trn3 on, the scalar engine) is in
            its performance mode: 1, 2 or 4.
        elementwise: on GpSimd, an instruction that other engines do as well.
        share: of the tensor engine's array, where a matmul names a tile of it; else 1.
        exposed: the stationary operand is loaded while the tensor engine does nothing else.
        table: the scalar engine loads a function's table first.
        psum: it accesses PSUM.
    """

    engine: str
    opcode: str
    cycles: float
    mode: int = 1
    elementwise: bool = False
    share: float = 1.0
    exposed: bool = False
    table: bool = False
    psum: bool = False


@dataclass(frozen=True, slots=True)
class Transfer:
    """A DMA.

    Attributes:
        issuer: ``sync`` (descriptors by hardware, or laid out before), ``scalar`` or ``gpsimd``.
        descriptors: who makes them: ``static``, ``hardware``, ``software`` or, in software without
            dynamic offsets, ``static_software``.
        bytes, runs: moved, and in how many contiguous runs.
        hbm_bytes: read from and written to HBM.
        partitions: rows of the on-chip side; 0 when both sides are in HBM.
        offset: it reads its place from memory.
        transposes: the DMA engines transpose.
    """

    issuer: str
    descriptors: str
    bytes: int
    runs: int
    hbm_bytes: int
    partitions: int
    offset: bool = False
    transposes: bool = False


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where cores or ranks meet: kind ``core_barrier``, ``sendrecv`` or ``collective``."""

    kind: str
    engine: str
    bytes: int


Task = Compute | Transfer | Meeting


@dataclass(slots=True)
class Stream:
    """The tasks of one core: the distinct ones, and which of them each instruction is."""

    tasks: list[Task] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)


def stream_of(events: Sequence[Event]) -> Stream:
    """The tasks of one core's instructions."""
    reader = _Reader()
    stream = Stream()
    known: dict[Task, int] = {}
    for event in events:
        task = reader.task(event)
        number = known.get(task)
        if number is None:
            number = known[task] = len(stream.tasks)
            stream.tasks.append(task)
        stream.numbers.append(number)
    return stream


class _Reader:
    """Reads one core's events in order.

    Attributes:
        narrow: the last matmul was too short to hide the loading of a stationary operand.
        functions: activation functions whose tables have been loaded.
    """

    def __init__(self) -> None:
        self.narrow = True
        self.functions: set[str] = set(NO_TABLE)
        self.cache: dict[Any, Task] = {}

    def task(self, event: Event) -> Task:
        if event.opcode in _DMA_OPCODES:
            return _transfer(event)
        if event.rendezvous or event.engine == "dma":
            return _meeting(event)
        return self._compute(event)

    def _compute(self, event: Event) -> Compute:
        engine, psum = event.engine, False
        for operand in event.operands:
            if operand.memory == "psum":
                psum = True
                break
        if engine == "tensor":
            exposed, self.narrow = self.narrow, event.cycles < 64 or _columns(event) < 64
            share = _tile_share(event.settings.get("tile_size", ()))
            return Compute(engine, event.opcode, event.cycles, share=share, exposed=exposed)
        if engine == "vector":
            mode = _mode(event)
            return Compute(engine, event.opcode, event.cycles, mode, psum=psum)
        if engine == "scalar":
            name = getattr(event.settings.get("op"), "name", NO_TABLE[0])
            table = name not in self.functions
            self.functions.add(name)
            mode = 2 if event.opcode in _FOUR and _halves(event) else 1
            return Compute(engine, event.opcode, event.cycles, mode, table=table, psum=psum)
        elementwise = event.opcode in _shared_opcodes()
        return Compute(engine, event.opcode, event.cycles, elementwise=elementwise)


@lru_cache(maxsize=1)
def _shared_opcodes() -> frozenset[str]:
    """What GpSimd does beside the vector engine."""
    from ..engines import INSTRUCTIONS

    return frozenset(i.opcode for i in INSTRUCTIONS if Engine.vector in i.engines)


def _columns(event: Event) -> int:
    """Columns that a matmul or transpose streams through the tensor engine."""
    for operand in event.operands:
        if operand.role in ("moving", "data"):
            size = math.prod(operand.shape)
            return size // operand.shape[0] if operand.role == "moving" else operand.shape[0]
    return 64


def _tile_share(size: Sequence[int]) -> float:
    return size[0] * size[1] / 16384 if size else 1.0


def _halves(event: Event) -> bool:
    return all(o.dtype in HALVES for o in event.operands if o.role in ("dst", "data", "src"))


def _mode(event: Event) -> int:
    """How many times faster the vector engine's performance mode makes it (trn2 and later)."""
    if event.opcode in _FOUR:
        if not _halves(event):
            return 1
        tiles = [o for o in event.operands if o.role in ("dst", "data", "src")]
        plain = all(o.memory == "sbuf" and _innermost_step(o) == 1 for o in tiles)
        return 4 if plain else 2
    if event.opcode == "tensor_tensor":
        inputs = all(o.memory == "sbuf" for o in event.operands if o.role != "dst")
        return 2 if inputs and all(o.dtype in HALVES for o in event.operands) else 1
    return 1


def _innermost_step(operand: OperandEvent) -> int:
    for size, step in zip(reversed(operand.shape[1:]), reversed(operand.strides[1:]), strict=True):
        if size > 1:
            return step
    return 1


def _bytes(operand: OperandEvent) -> int:
    return math.prod(operand.shape) * TABLE[operand.dtype].itemsize


def _transfer(event: Event) -> Transfer:
    """What a DMA moves, in which pieces, and who describes it."""
    tensors = [o for o in event.operands if o.role in ("dst", "src", "srcs")]
    read = sum(_bytes(o) for o in tensors if o.access == "read")
    written = sum(_bytes(o) for o in tensors if o.access != "read")
    moved = max(read, written)
    run = min([_LONGEST_DESCRIPTOR, *(_run_bytes(o) for o in tensors)])
    transposes = event.opcode == "dma_transpose"
    if transposes:
        run = max(run, 512)
    rows = [o.shape[0] for o in tensors if o.memory in ON_CHIP_NAMES]
    gathers = any(o.role.endswith(".index") and o.shape != (1, 1) for o in event.operands)
    offset = any(o.dynamic for o in tensors)
    issuer, descriptors = _issuer(event, gathers)
    return Transfer(
        issuer,
        descriptors,
        moved,
        max(moved // run, 1),
        sum(_bytes(o) for o in tensors if o.memory in HBM_NAMES),
        min(rows, default=0),
        offset and not gathers,
        transposes,
    )


def _run_bytes(operand: OperandEvent) -> int:
    on_chip = operand.memory in ON_CHIP_NAMES
    return _run(operand.shape, operand.strides, on_chip) * TABLE[operand.dtype].itemsize


def _issuer(event: Event, gathers: bool) -> tuple[str, str]:
    """Whose queue triggers a DMA, and what makes its descriptors.

    Where the kernel leaves it open, gathers and scatters go through GpSimd's software, all else
    through the sync engine and the hardware's generator (on trn1, descriptors laid out before).
    """
    mode, queue = event.settings.get("dge_mode"), event.settings.get("queue")
    if gathers:
        return "gpsimd", "software"
    if mode is DgeMode.swdge:
        dynamic = any(o.dynamic for o in event.operands)
        return "gpsimd", "software" if dynamic else "static_software"
    if mode is DgeMode.none:
        return "sync", "static"
    return ("scalar" if queue is Engine.scalar else "sync"), "hardware"


def _meeting(event: Event) -> Meeting:
    kind = event.opcode if event.opcode in ("core_barrier", "sendrecv") else "collective"
    moved = 0 if kind == "core_barrier" else sum(map(_bytes, _written(event.operands)))
    return Meeting(kind, event.engine, moved)


def _written(operands: Iterable[OperandEvent]) -> list[OperandEvent]:
    return [o for o in operands if o.access != "read"]
