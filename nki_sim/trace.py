"""The account: what every launch executed, and recordings of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .constants import HBM, PSUM, SBUF, Engine
from .descriptors import short_descriptors
from .modes import FULL, passes, selected
from .places import kernel_line
from .registers import VirtualRegister

if TYPE_CHECKING:
    from .engines.base import Instruction, Operand
    from .machine import Program
    from .pools import Holder
    from .views import NkiTensor


@dataclass(frozen=True, slots=True)
class OperandEvent:
    """One tensor operand of an executed instruction.

    Attributes:
        role: parameter name, e.g. ``dst``.
        access: ``read``, ``write`` or ``update``.
        shape, dtype, memory: of the window that was used.
        storage: serial number of the allocation behind it.
        offset, strides: the window, in elements.
        name: of the allocation; kernel inputs have that of the parameter.
        row_bytes: on chip, bytes per partition of the allocation.
        address: partition and byte of the allocation, where the kernel chose it.
        dynamic: the window's place is read from memory when the kernel runs.
    """

    role: str
    access: str
    shape: tuple[int, ...]
    dtype: str
    memory: str
    storage: int
    offset: int
    strides: tuple[int, ...]
    name: str = ""
    row_bytes: int = 0
    address: tuple[int, int] | None = None
    dynamic: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """One executed instruction.

    Attributes:
        opcode: name in nki.isa.
        engine: name of the engine that executed it.
        operands: its tensors, then what it reads dynamic offsets from (role ``dst.index``), and
            registers (memory ``register``).
        elements: elements processed (of the operand that the instruction declares as its work).
        bytes: bytes read and written over all operands.
        macs: multiply-accumulates; a transpose through the tensor engine has none.
        name: the ``name=`` argument, or an empty string.
        core: which core of the launch executed it.
        rendezvous: the number of the rendezvous that it is, equal on all cores and ranks that took
            part; 0 for other instructions.
        file, line: where the kernel issues it.
        cycles: of its engine, by the published formula; 0 where none is counted in cycles.
        settings: of the instruction, as far as they decide how long it takes.
    """

    opcode: str
    engine: str
    operands: tuple[OperandEvent, ...]
    elements: int
    bytes: int
    macs: int
    name: str
    core: int = 0
    rendezvous: int = 0
    file: str = ""
    line: int = 0
    cycles: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Launch:
    """The account of one kernel launch.

    Attributes:
        kernel: ``__name__`` of the kernel function.
        instructions: one event per instruction while recording, else empty.
        counts, elements: by engine.
        mode, passes: how much was simulated (`modes`).
        issued: instructions so far.
        dependencies: explicit ones, as (waiting instruction, earlier instruction) in program order.
        assumed: on shapes, what was assumed of data that decide addresses or control flow, and how
            often.
        core, cores: which core of a launch on two this is the account of; on the account of the
            whole launch, those of its cores. Counts and bytes are then sums, peaks the larger ones,
            and the instructions those of core 0 followed by those of core 1.
        findings: what is legal and probably not meant, and how often; `warnings` in words.
        at_peak: while recording, who held each on-chip memory (by name) when most of it was held.
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
    mode: str = FULL
    passes: int = 1
    assumed: dict[str, int] = field(default_factory=dict)
    issued: int = 0
    dependencies: list[tuple[int, int]] = field(default_factory=list)
    core: int = 0
    cores: list[Launch] = field(default_factory=list)
    findings: dict[str, int] = field(default_factory=dict)
    at_peak: dict[str, list[Holder]] = field(default_factory=dict)

    @property
    def warnings(self) -> list[str]:
        """Legal but probably not meant: slow DMA patterns, scatters whose order decides."""
        return [f"{text} ({n} times)" if n > 1 else text for text, n in self.findings.items()]

    def find(self, text: str) -> None:
        """Note a finding."""
        self.findings[text] = self.findings.get(text, 0) + 1

    def assume_passes(self, loop: str) -> int:
        """How often a loop of unknown length runs; noted as an assumption."""
        self.assume(f"{loop} runs {'once' if self.passes == 1 else f'{self.passes} times'}")
        return self.passes

    def assume(self, what: str) -> None:
        """Note an assumption about data that a launch on shapes does not have."""
        self.assumed[what] = self.assumed.get(what, 0) + 1

    def add(
        self, instruction: Instruction, elements: int, macs: int, sizes: dict[str, int]
    ) -> None:
        """Account one executed instruction."""
        engine = instruction.engine
        self.issued += 1
        self.counts[engine] = self.counts.get(engine, 0) + 1
        self.elements[engine] = self.elements.get(engine, 0) + elements
        self.macs += macs
        if engine is Engine.dma:
            self._add_traffic(instruction)
        if self.recording:
            self.instructions.append(_event(instruction, elements, macs, self.core, sizes))
            if engine is Engine.dma:
                finding = short_descriptors(instruction)
                if finding:
                    self.find(finding)

    def merge(self, cores: list[Launch]) -> None:
        """Take over the accounts of a launch's cores."""
        self.cores = cores
        for one in cores:
            before = self.issued
            self.issued += one.issued
            self.dependencies += [(n + before, m + before) for n, m in one.dependencies]
            self.instructions += one.instructions
            _add_counts(self.counts, one.counts)
            _add_counts(self.elements, one.elements)
            _add_counts(self.assumed, one.assumed)
            _add_counts(self.findings, one.findings)
            self.macs += one.macs
            self.hbm_read_bytes += one.hbm_read_bytes
            self.hbm_write_bytes += one.hbm_write_bytes
        fullest = max(cores, key=lambda one: one.sbuf_peak_bytes_per_partition)
        busiest = max(cores, key=lambda one: one.psum_peak_banks)
        self.sbuf_peak_bytes_per_partition = fullest.sbuf_peak_bytes_per_partition
        self.psum_peak_banks = busiest.psum_peak_banks
        for name, one in (("sbuf", fullest), ("psum", busiest)):
            self.at_peak[name] = one.at_peak.get(name, [])

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
        self.at_peak = {region.name: pool.at_peak for region, pool in program.pools.items()}

    def summary(self) -> dict[str, Any]:
        """The account as plain numbers; engines in alphabetical order; ``cores`` only on two."""
        cores = {"cores": [one.summary() for one in self.cores]} if self.cores else {}
        return cores | {
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


def _add_counts(mine: dict[Any, int], theirs: dict[Any, int]) -> None:
    for key, count in theirs.items():
        mine[key] = mine.get(key, 0) + count


def _event(
    instruction: Instruction, elements: int, macs: int, core: int, sizes: dict[str, int]
) -> Event:
    tensors = list(instruction.tensors())
    placed = instruction.placed or {}
    operands = [_operand(o.name, o.access, t, o.name in placed) for o, t in tensors]
    if placed or any(hasattr(t, "index") for _, t in tensors):
        operands += _indices(tensors, placed)
    register = getattr(instruction, "register", None)
    if register is not None:
        operands.append(
            _register(register, "write" if instruction.opcode == "register_load" else "read")
        )
    moved = sum(t.nbytes * (2 if o.access == "update" else 1) for o, t in tensors)
    moved = moved if elements else 0
    return Event(
        instruction.opcode,
        instruction.engine.name,
        tuple(operands),
        elements,
        moved,
        macs,
        instruction.name or "",
        core,
        getattr(instruction, "rendezvous", 0),
        *kernel_line(),
        instruction.cycles(sizes),
        {name: getattr(instruction, name) for name in instruction.timed},
    )


def _operand(role: str, access: str, tensor: NkiTensor, dynamic: bool = False) -> OperandEvent:
    storage = tensor.storage
    return OperandEvent(
        role,
        access,
        tensor.shape,
        tensor.dtype,
        tensor.buffer.name,
        storage.serial,
        tensor.offset,
        tensor.strides,
        storage.name,
        tensor.row * tensor.itemsize if tensor.on_chip else 0,
        storage.address,
        dynamic or hasattr(tensor, "index"),
    )


def _indices(
    tensors: list[tuple[Operand, NkiTensor]], placed: Mapping[str, Any]
) -> Iterator[OperandEvent]:
    """What the dynamic offsets of an instruction's windows are read from."""
    for operand, tensor in tensors:
        index = placed.get(operand.name, getattr(tensor, "index", None))
        if isinstance(index, VirtualRegister):
            yield _register(index, "read")
        elif index is not None:
            tile = getattr(index, "tile", index)
            yield _operand(f"{operand.name}.index", "read", tile)


def _register(register: VirtualRegister, access: str) -> OperandEvent:
    return OperandEvent("register", access, (1,), "int32", "register", -register.serial, 0, (1,))


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
    launch = Launch(kernel, recording=bool(_recordings), mode=selected(), passes=passes())
    for recording in _recordings:
        recording.launches.append(launch)
    return launch
