"""The account: what every launch executed, and recordings of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .constants import HBM, PSUM, SBUF, Engine

if TYPE_CHECKING:
    from .engines.base import Instruction
    from .machine import Program


@dataclass(frozen=True, slots=True)
class OperandEvent:
    """One tensor operand of an executed instruction.

    Attributes:
        role: parameter name, e.g. ``dst``.
        access: ``read``, ``write`` or ``update``.
        shape, dtype, memory: of the window that was used.
        storage: serial number of the allocation behind it.
        offset, strides: the window, in elements.
    """

    role: str
    access: str
    shape: tuple[int, ...]
    dtype: str
    memory: str
    storage: int
    offset: int
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """One executed instruction.

    Attributes:
        opcode: name in nki.isa.
        engine: name of the engine that executed it.
        operands: its tensors.
        elements: elements processed (of the operand that the instruction declares as its work).
        bytes: bytes read and written over all operands.
        macs: multiply-accumulates; a transpose through the tensor engine has none.
        name: the ``name=`` argument, or an empty string.
    """

    opcode: str
    engine: str
    operands: tuple[OperandEvent, ...]
    elements: int
    bytes: int
    macs: int
    name: str


@dataclass(slots=True)
class Launch:
    """The account of one kernel launch.

    Attributes:
        kernel: ``__name__`` of the kernel function.
        instructions: one event per instruction while recording, else empty.
        counts, elements: by engine.
    """

    kernel: str
    recording: bool = False
    instructions: list[Event] = field(default_factory=list)
    counts: dict[Engine, int] = field(default_factory=dict)
    elements: dict[Engine, int] = field(default_factory=dict)
    macs: int = 0
    hbm_read_bytes: int = 0
    hbm_write_bytes: int = 0
    sbuf_peak_bytes_per_partition: int = 0
    psum_peak_banks: int = 0

    def add(self, instruction: Instruction, elements: int, macs: int) -> None:
        """Account one executed instruction."""
        engine = instruction.engine
        self.counts[engine] = self.counts.get(engine, 0) + 1
        self.elements[engine] = self.elements.get(engine, 0) + elements
        self.macs += macs
        if engine is Engine.dma:
            self._add_traffic(instruction)
        if self.recording:
            self.instructions.append(_event(instruction, elements, macs))

    def _add_traffic(self, instruction: Instruction) -> None:
        for operand, tensor in instruction.tensors():
            if tensor.buffer in HBM:
                if operand.access == "read":
                    self.hbm_read_bytes += tensor.nbytes
                else:
                    self.hbm_write_bytes += tensor.nbytes

    def close(self, program: Program) -> None:
        """Take over the peaks of the finished program."""
        self.sbuf_peak_bytes_per_partition = program.pools[SBUF].peak
        self.psum_peak_banks = program.pools[PSUM].peak

    def summary(self) -> dict[str, Any]:
        """The account as plain numbers; engines in alphabetical order."""
        return {
            "instructions": _by_name(self.counts),
            "macs": self.macs,
            "hbm_read_bytes": self.hbm_read_bytes,
            "hbm_write_bytes": self.hbm_write_bytes,
            "sbuf_peak_bytes_per_partition": self.sbuf_peak_bytes_per_partition,
            "psum_peak_banks": self.psum_peak_banks,
            "elements": _by_name(self.elements),
        }


def _by_name(counts: dict[Engine, int]) -> dict[str, int]:
    return {engine.name: n for engine, n in sorted(counts.items(), key=lambda item: item[0].name)}


def _event(instruction: Instruction, elements: int, macs: int) -> Event:
    tensors = list(instruction.tensors())
    operands = tuple(
        OperandEvent(
            o.name, o.access, t.shape, t.dtype, t.buffer.name, t.storage.serial, t.offset, t.strides
        )
        for o, t in tensors
    )
    moved = sum(t.nbytes * (2 if o.access == "update" else 1) for o, t in tensors)
    return Event(
        instruction.opcode,
        instruction.engine.name,
        operands,
        elements,
        moved,
        macs,
        instruction.name or "",
    )


@dataclass(slots=True)
class Recording:
    """Every launch made while the recording was open, in order."""

    launches: list[Launch] = field(default_factory=list)


_recordings: list[Recording] = []


@contextmanager
def record() -> Iterator[Recording]:
    """Record the launches and instructions of everything that runs inside the ``with``."""
    recording = Recording()
    _recordings.append(recording)
    try:
        yield recording
    finally:
        _recordings.remove(recording)


def open_launch(kernel: str) -> Launch:
    """A new launch, known to every open recording."""
    launch = Launch(kernel, recording=bool(_recordings))
    for recording in _recordings:
        recording.launches.append(launch)
    return launch
