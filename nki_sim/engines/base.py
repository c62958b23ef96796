"""What an instruction declares, and the checks, errors and accounting that follow from it.

A subclass is a dataclass whose fields are the operands and settings of one instruction. Its class
variables say which engines execute it, what each operand may be, which sizes must agree or are
limited, and what else must hold. `issue` checks all of that, executes and accounts. The
documentation table and the negative tests read the same declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .. import tails
from ..column_indirect import ColumnIndirect
from ..constants import ON_CHIP, PSUM, SBUF, Engine, MemoryRegion, NcVersion
from ..dtypes import NUMBERS, Array
from ..errors import IllegalProgram, NotModelled, UninitialisedRead
from ..handles import NkiInstruction
from ..indirect import IndirectTensor
from ..machine import PARTITIONS, PLATFORM_OF, Program, current
from ..views import NkiTensor, StrayTensor
from .costs import Costs

Sizes = dict[str, int]
"""Axis letter to size, as bound by an instruction's operands."""

REACH: dict[Engine, tuple[MemoryRegion, ...]] = {
    Engine.tensor: ON_CHIP,
    Engine.vector: ON_CHIP,
    Engine.scalar: ON_CHIP,
    Engine.gpsimd: (SBUF,),
    Engine.dma: (SBUF, MemoryRegion.private_hbm, MemoryRegion.shared_hbm),
    Engine.sync: (SBUF, MemoryRegion.private_hbm, MemoryRegion.shared_hbm),
}
"""Which memories each engine can reach (NKI 0.3 and newer: neither GpSimd nor DMA touches PSUM)."""

READ, WRITE, UPDATE = "read", "write", "update"
"""Access to an operand; `update` keeps some elements of what was there."""


@dataclass(frozen=True, slots=True)
class Operand:
    """One tensor parameter.

    Attributes:
        name: the parameter.
        axes: two letters, partition and free; equal letters in one instruction are equal sizes,
            digits are literal sizes. One letter is the total element count (DMA).
        access: READ, WRITE or UPDATE.
        memories: where it may live.
        dtypes: its legal element types.
        scalar: a Python number may stand in its place.
        optional: None may stand in its place.
        many: it is a list of such tensors.
    """

    name: str
    axes: str
    access: str = READ
    memories: tuple[MemoryRegion, ...] = ON_CHIP
    dtypes: tuple[str, ...] = NUMBERS
    scalar: bool = False
    optional: bool = False
    many: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """Bounds on the size of an axis, on some engines or on all."""

    axis: str
    highest: int
    source: str
    lowest: int = 1
    engine: Engine | None = None
    remedy: str = "split the operation into smaller ones"


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition that axes, memories and types do not express.

    Attributes:
        text: what must hold.
        broken_by: given the instruction and its sizes, what was received instead, or None when the
            rule holds.
        remedy, source: what to do, and where the rule comes from.
    """

    text: str
    broken_by: Callable[[Any, Sizes], str | None]
    remedy: str
    source: str


LANES = Limit(
    "P", PARTITIONS, "the memories have 128 partitions", remedy="split it into tiles of 128 rows"
)


@dataclass(slots=True, eq=False)
class Instruction:
    """Base of all instructions; see the module's docstring.

    Class variables:
        opcode: name in nki.isa.
        engines: who can execute it; the first is the default.
        operands, limits, rules: what must hold.
        work: the operand whose elements are counted as processed.
        timed: the settings that, beside its operands, decide how long it takes.
        numerics: how the result is computed, in words.
        fidelity: ``exact`` or ``approximate`` compared with the hardware, as far as documents say.
        cost: the published cycle formulas (N: elements per partition of `work`).
        example: settings of a legal instance, for generated tests.
        since, engine_since: the first platform that has it; later ones of some engines.
        cores: how many cores it takes.
        meets: it waits for other cores or ranks.
    """

    opcode: ClassVar[str]
    engines: ClassVar[tuple[Engine, ...]]
    operands: ClassVar[tuple[Operand, ...]]
    limits: ClassVar[tuple[Limit, ...]] = (LANES,)
    rules: ClassVar[tuple[Rule, ...]] = ()
    work: ClassVar[str] = "dst"
    timed: ClassVar[tuple[str, ...]] = ()
    numerics: ClassVar[str] = "fp32 inside, one rounding on write"
    fidelity: ClassVar[str] = "exact"
    cost: ClassVar[Costs] = Costs("max(64, N)")
    example: ClassVar[dict[str, Any]] = {}
    since: ClassVar[NcVersion] = NcVersion.gen2
    engine_since: ClassVar[dict[Engine, NcVersion]] = {}
    cores: ClassVar[int] = 1
    meets: ClassVar[bool] = False

    engine: Engine = field(default=Engine.unknown, kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    scattered: list[tuple[ColumnIndirect, NkiTensor]] | None = field(
        default=None, init=False, kw_only=True
    )
    unwritten: Array | None = field(default=None, init=False, kw_only=True)
    # What the dynamic offsets of on-chip operands, whose windows are plain now, were read from.
    placed: dict[str, Any] | None = field(default=None, init=False, kw_only=True)

    # -- what a subclass provides ------------------------------------------------------------------

    def execute(self, program: Program) -> None:
        """Compute the result and write it (the memory's own bookkeeping is done by `issue`)."""
        raise NotImplementedError

    def choose_engine(self) -> Engine:
        """The engine when the kernel leaves it to the compiler."""
        return self.engines[0]

    def macs(self, sizes: Sizes) -> int:
        """Multiply-accumulates."""
        return 0

    def read_window(self, operand: Operand, value: NkiTensor) -> NkiTensor:
        """The part of an input that is really read, and so must have been written."""
        return value

    # -- life of an instruction --------------------------------------------------------------------

    def issue(self) -> NkiInstruction:
        """Check, execute and account this instruction in the running program."""
        program = current(self.opcode)
        if self.name:
            program.claim_name("instruction", self.name, self.opcode)
        for pool in program.pools.values():
            if pool.squeezes:
                for _, tensor in self.tensors():
                    pool.use(tensor.storage.serial)
        sizes = self.check() if program.seat is None else program.seat.check(self)
        if program.watcher is None:
            self.run(program)
        else:
            program.watcher.run(self, program)
        if program.seat is not None:
            program.seat.settle()
        if self.unwritten is not None:
            tails.forget(program, self, self.unwritten)
        if self.scattered is not None:
            for columns, result in self.scattered:
                columns.scatter(result, self.opcode, self.engine)
        if self.name:
            program.numbers[self.name] = program.launch.issued
        program.launch.add(self, self.worked(), self.macs(sizes), sizes)
        return NkiInstruction(program.launch, program.launch.issued - 1, self.opcode)

    def cycles(self, sizes: Sizes) -> float:
        """Cycles of its engine by the published formula; 0 for what no engine counts in cycles."""
        cost = self.cost
        if not cost.cases:
            return 0.0
        return cost.cycles(self, {"N": getattr(self, self.work).free} | sizes)

    def worked(self) -> int:
        """Elements processed."""
        elements: int = getattr(self, self.work).size
        return elements

    def run(self, program: Program) -> None:
        """Compute, and note in the memories what has been written; on shapes the latter only."""
        if not program.numeric:
            self._run_on_shapes(program)
            return
        written = [
            (operand, tensor)
            for operand in self.operands
            if operand.access is not READ and (tensor := getattr(self, operand.name)) is not None
        ]
        for operand, tensor in written:
            storage = tensor.storage
            if storage.fresh and self.overwrites(operand) and tensor.covers_storage():
                storage.fresh = False  # no byte of what was there before will be seen
            if storage.locked:
                raise self.refuse(
                    f"argument {storage.name} can be written", "a read-only array", "pass a copy"
                )
        self.execute(program)
        for operand, tensor in written:
            self.settle(operand, tensor)

    def overwrites(self, operand: Operand) -> bool:
        """Whether all elements of an operand are written, whatever the data."""
        return operand.access is WRITE and type(self).settle is Instruction.settle

    def _run_on_shapes(self, program: Program) -> None:
        """Note what would have been written, and what was assumed of data that are not there."""
        for operand, tensor in self.tensors():
            if type(tensor) is not NkiTensor:
                program.launch.assume(f"{self.opcode}: the dynamic offset of {operand.name} is 0")
            if operand.access is not READ:
                tensor.mark_written()

    def settle(self, operand: Operand, tensor: NkiTensor) -> None:
        """Note in the memory that an operand has been written."""
        tensor.mark_written()
        if tensor.buffer is PSUM and current(self.opcode).checked:
            mark_foreign(tensor)

    def tensors(self) -> Iterator[tuple[Operand, NkiTensor]]:
        """The operands that are tensors."""
        for operand in self.operands:
            value = getattr(self, operand.name)
            if isinstance(value, NkiTensor):
                yield operand, value
            elif operand.many:
                yield from ((operand, item) for item in value)

    # -- checks ------------------------------------------------------------------------------------

    def check(self) -> Sizes:
        """The sizes of the axes of a legal instruction with initialised inputs; raise otherwise."""
        self._settle_engine()
        sizes: Sizes = {}
        if not current(self.opcode).checked:
            self._measure(sizes)
            return sizes
        fresh: list[tuple[str, NkiTensor]] = []
        for operand in self.operands:
            value = getattr(self, operand.name)
            if type(value) is not NkiTensor or operand.many:
                if operand.many:
                    fresh += self._check_many(operand, value, sizes)
                    continue
                value = self.stand_in(operand, value)
                if value is None:
                    continue
            self._check_operand(operand, value, sizes)
            if operand.access is READ and value.storage.unwritten:
                fresh.append((operand.name, self.read_window(operand, value)))
        self._check_limits(sizes)
        for rule in self.rules:
            received = rule.broken_by(self, sizes)
            if received is not None:
                raise self.refuse(rule.text, received, rule.remedy)
        if fresh:
            self._require_written(fresh)
        return sizes

    def _require_written(self, fresh: list[tuple[str, NkiTensor]]) -> None:
        """Raise UninitialisedRead unless these inputs are written, or note where they are not."""
        if self.opcode in tails.ROWWISE and current(self.opcode).follows_tails:
            self.unwritten = tails.unwritten(self, fresh)
            return
        for role, tensor in fresh:
            try:
                tensor.require_written(self.opcode, role)
            except UninitialisedRead as error:
                if self.opcode not in tails.ROWWISE:
                    raise
                raise UninitialisedRead(
                    error.operation,
                    error.rule,
                    error.received,
                    f"{error.remedy}; if the results are not used either: NKI_SIM_MODE=tails",
                ) from None

    def _check_many(
        self, operand: Operand, values: object, sizes: Sizes
    ) -> list[tuple[str, NkiTensor]]:
        """Check a list of tensors like one each; those that must have been written."""
        if not isinstance(values, list | tuple) or not values:
            raise self.refuse(f"{operand.name} must be a list of tensors", repr(values))
        fresh = []
        for number, value in enumerate(values):
            tensor: Any = value if type(value) is NkiTensor else self.stand_in(operand, value)
            self._check_operand(operand, tensor, sizes)
            if operand.access is READ and tensor.storage.unwritten:
                fresh.append((f"{operand.name}[{number}]", self.read_window(operand, tensor)))
        return fresh

    def _measure(self, sizes: Sizes) -> None:
        """Bind the axes without comparing anything."""
        for operand, value in self.tensors():
            if type(value) is not NkiTensor and value.on_chip:
                self.resolve_window(operand, value)
            axes = operand.axes
            if len(axes) == 1:
                sizes[axes] = value.size
            else:
                sizes[axes[0]], sizes[axes[1]] = value.partitions, value.free

    def refuse(self, rule: str, received: str, remedy: str = "") -> IllegalProgram:
        """The error for a broken rule of this instruction."""
        return IllegalProgram(self.opcode, rule, received, remedy)

    def _settle_engine(self) -> None:
        if self.engine is Engine.unknown:
            self.engine = self.choose_engine()
        elif self.engine not in self.engines:
            legal = ", ".join(engine.name for engine in self.engines)
            raise self.refuse(f"runs on {legal}", f"engine={self.engine!r}", "leave the engine out")
        needed = self.engine_since.get(self.engine, self.since)
        if needed is not NcVersion.gen2:
            where = f" on the {self.engine.name} engine" if self.engine in self.engine_since else ""
            require_platform(self.opcode, f"this instruction{where}", needed)

    def stand_in(self, operand: Operand, value: object) -> NkiTensor | None:
        """The tensor to check for `value`, which is no plain tensor; None for a legal number."""
        if value is None and operand.optional:
            return None
        if operand.scalar and type(value) in (int, float):
            return None
        if isinstance(value, NkiTensor):
            return self.resolve_window(operand, value)
        what = "a tensor" + " or a Python number" * operand.scalar
        raise self.refuse(f"{operand.name} must be {what}", f"{type(value).__name__} {value!r}")

    def resolve_window(self, operand: Operand, value: NkiTensor) -> NkiTensor:
        """Put the plain window that a dynamic offset selects now in an operand's place."""
        program = current(self.opcode)
        if isinstance(value, StrayTensor):
            raise value.error
        if not value.on_chip:
            raise self._wrong_memory(operand, value)
        if not program.numeric:
            program.launch.assume(f"{self.opcode}: the dynamic offset of {operand.name} is 0")
            window = NkiTensor(value.storage, value.shape, value.strides, value.offset, value.dtype)
        elif isinstance(value, IndirectTensor):
            window = value.on_chip_window(self.opcode)
        else:
            assert isinstance(value, ColumnIndirect)
            window = self._place_columns(operand, value)
        self.placed = (self.placed or {}) | {operand.name: getattr(value, "index", None)}
        setattr(self, operand.name, window)
        return window

    def _place_columns(self, operand: Operand, value: ColumnIndirect) -> NkiTensor:
        """A tensor with the columns of an input, or one to scatter an output's columns from."""
        if self.engine is Engine.dma or operand.axes[1:] in ("", "1"):
            raise self.refuse(
                f"{operand.name} has no column offsets", str(value), "copy the columns first"
            )
        check_start_partition(self.opcode, operand.name, value.source)
        if operand.access is READ:
            if value.index.start_partition != value.source.start_partition:
                raise self.refuse(
                    f"{operand.name} starts on the same partition as its column offsets",
                    f"{value.source} and {value.index}",
                )
            return value.gathered(self.opcode, self.engine)
        if operand.access is UPDATE:
            raise NotModelled(
                self.opcode, "scattering into an updated operand is not modelled", str(value)
            )
        if self.engine is Engine.scalar and value.buffer is PSUM:
            raise self.refuse("the scalar engine scatters to SBUF only", str(value))
        target = value.target()
        self.scattered = [*(self.scattered or []), (value, target)]
        return target

    def _check_operand(self, operand: Operand, value: NkiTensor, sizes: Sizes) -> None:
        """Memory, type, sizes and start partition of one operand."""
        if value.buffer not in operand.memories or value.buffer not in REACH[self.engine]:
            raise self._wrong_memory(operand, value)
        if value.dtype not in operand.dtypes:
            raise self.refuse(
                f"{operand.name} must be of type {', '.join(operand.dtypes)}",
                str(value),
                "convert it first",
            )
        self._bind(operand, value, sizes)

    def _bind(self, operand: Operand, value: NkiTensor, sizes: Sizes) -> None:
        axes = operand.axes
        if len(axes) == 1:
            self._bind_axis(axes, value.size, operand, value, sizes)
            return
        self._bind_axis(axes[0], value.partitions, operand, value, sizes)
        self._bind_axis(axes[1], value.free, operand, value, sizes)
        check_start_partition(self.opcode, operand.name, value)

    def _bind_axis(
        self, axis: str, size: int, operand: Operand, value: NkiTensor, sizes: Sizes
    ) -> None:
        expected = sizes.get(axis)
        if expected is None:
            expected = sizes[axis] = int(axis) if axis.isdigit() else size
        if expected != size:
            kind = "elements" if len(operand.axes) == 1 else "[partitions, elements per partition]"
            raise self.refuse(
                f"{self._layout()} must agree in {kind}",
                f"{operand.name} {value} where {axis} = {expected}",
                "nothing is broadcast: slice or repeat an operand to the other's size",
            )

    def _layout(self) -> str:
        return ", ".join(f"{o.name}[{','.join(o.axes)}]" for o in self.operands)

    def _check_limits(self, sizes: Sizes) -> None:
        for limit in self.limits:
            size = sizes.get(limit.axis)
            if size is None or (limit.engine is not None and limit.engine is not self.engine):
                continue
            if not limit.lowest <= size <= limit.highest:
                where = f" on the {limit.engine.name} engine" if limit.engine else ""
                raise self.refuse(
                    f"{limit.axis} of {self._layout()} must be in "
                    f"{limit.lowest}..{limit.highest}{where}",
                    f"{limit.axis} = {size}",
                    limit.remedy,
                )

    def _wrong_memory(self, operand: Operand, value: NkiTensor) -> IllegalProgram:
        legal = [m.name for m in operand.memories if m in REACH[self.engine]]
        mover = "tensor_copy" if value.on_chip else "dma_copy"
        return self.refuse(
            f"{operand.name} must be in {' or '.join(legal)} on the {self.engine.name} engine",
            str(value),
            f"move it with nisa.{mover}",
        )


def require_platform(operation: str, what: str, since: NcVersion) -> None:
    """Raise unless the running program's platform is `since` or a later one."""
    platform = current(operation).platform
    if platform.version < since:
        first = PLATFORM_OF[since].name
        raise IllegalProgram(
            operation,
            f"{what} exists from {first} on",
            platform.name,
            f"set NEURON_PLATFORM_TARGET_OVERRIDE={first} if the kernel is for it",
        )


def check_start_partition(operation: str, role: str, tensor: NkiTensor) -> None:
    """Raise unless an on-chip window starts on a partition that its height allows.

    1..32 rows start at 0, 32, 64 or 96; 33..64 rows at 0 or 64; more at 0.
    """
    if not tensor.offset and not tensor.storage.partition:
        return
    start, rows = tensor.start_partition, tensor.partitions
    step = 32 if rows <= 32 else 64 if rows <= 64 else PARTITIONS
    if start % step:
        raise IllegalProgram(
            operation,
            f"{role} with {rows} partitions must start at a multiple of {step}",
            f"{tensor} from partition {start}",
            "move rows with nisa.dma_copy, or keep what is selected in the free dimension",
        )


def mark_foreign(tensor: NkiTensor) -> None:
    """Note that something else than an accumulating matmul wrote this PSUM window."""
    tensor.foreign_mask()[...] = True


def at_most_one_in_psum(*names: str) -> Rule:
    """The rule that at most one of the named inputs is in PSUM."""

    def broken_by(instruction: Any, _: Sizes) -> str | None:
        inside = [n for n in names if getattr(getattr(instruction, n), "buffer", None) is PSUM]
        return f"{' and '.join(inside)} in psum" if len(inside) > 1 else None

    return Rule(
        f"at most one of {' and '.join(names)} is in PSUM",
        broken_by,
        "evacuate one with nisa.tensor_copy",
        "the engines have one read port to PSUM",
    )
