"""Instructions in which the two cores of a launch meet: sendrecv and core_barrier."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..constants import SBUF, SHARED_HBM, DmaEngine, Engine, NcVersion
from ..dtypes import TABLE
from ..errors import IllegalProgram
from ..machine import Program
from ..schedule import advise
from ..views import NkiTensor
from .base import READ, UPDATE, WRITE, Instruction, Operand, Rule, Sizes
from .costs import Costs

ANY_TYPE = tuple(TABLE)
GPSIMD_BYTES = {4: 1024, 2: 512, 1: 256}
"""Bytes per partition that GpSimd's own DMA swaps at once, by element size (sendrecv's docs)."""


@dataclass(slots=True, eq=False)
class Rendezvous(Instruction):
    """Base: waits for other cores, whatever is simulated of the data.

    Attributes:
        rendezvous: its number in the run, equal on all that took part.
    """

    meets: ClassVar[bool] = True

    rendezvous: int = field(default=0, init=False)

    def run(self, program: Program) -> None:
        self.rendezvous = self.meet(program)
        if program.checked or program.numeric:
            for operand, tensor in self.tensors():
                if operand.access is not READ:
                    self.settle(operand, tensor)

    def meet(self, program: Program) -> int:
        """Wait for the others; exchange data where there are numbers."""
        raise NotImplementedError

    def require_two_cores(self, program: Program) -> None:
        """Raise unless the launch runs on two cores."""
        if program.num_programs != 2:
            raise self.refuse(
                "two cores take part",
                f"a launch on {program.num_programs}",
                "launch kernel[2], or skip it where nl.num_programs(0) is 1",
            )


def _ranks_are_cores(instruction: Any, _: Sizes) -> str | None:
    ranks = instruction.send_to_rank, instruction.recv_from_rank
    if all(type(rank) is int and rank in (0, 1) for rank in ranks):
        return None
    return f"send_to_rank={ranks[0]!r}, recv_from_rank={ranks[1]!r}"


def _too_much_for_gpsimd(instruction: Any, _: Sizes) -> str | None:
    if instruction.carrier is not DmaEngine.gpsimd_dma:
        return None
    src = instruction.src
    most = GPSIMD_BYTES[src.itemsize]
    size = src.free * src.itemsize
    return f"{size} bytes per partition of {src}, over {most}" if size > most else None


@dataclass(slots=True, eq=False)
class SendRecv(Rendezvous):
    """dst here = src on core `recv_from_rank`, while src here goes to core `send_to_rank`."""

    opcode: ClassVar[str] = "sendrecv"
    engines: ClassVar = (Engine.dma, Engine.gpsimd)
    operands: ClassVar = (
        Operand("src", "PF", READ, memories=(SBUF,), dtypes=ANY_TYPE),
        Operand("dst", "PF", WRITE, memories=(SBUF,), dtypes=ANY_TYPE),
    )
    rules: ClassVar = (
        Rule("the ranks are 0 and 1", _ranks_are_cores, "pass the other core's number", "sendrecv"),
        Rule(
            "the pipe is a number",
            lambda i, _: None if type(i.pipe_id) is int else repr(i.pipe_id),
            "pass an integer",
            "sendrecv",
        ),
        Rule(
            "dst has src's type",
            lambda i, _: f"{i.src} and {i.dst}" if i.src.dtype != i.dst.dtype else None,
            "allocate dst with src's type",
            "sendrecv",
        ),
        Rule(
            "GpSimd's DMA swaps at most 1024 bytes per partition of 4-byte elements, 512 of 2-byte "
            "and 256 of 1-byte elements",
            _too_much_for_gpsimd,
            "split it, or leave dma_engine out",
            "sendrecv, dma_engine",
        ),
    )
    numerics: ClassVar[str] = "bit copy"
    cost: ClassVar[Costs] = Costs(words="about 2 us + bytes / bandwidth")
    since: ClassVar[NcVersion] = NcVersion.gen3
    cores: ClassVar[int] = 2
    example: ClassVar = {"send_to_rank": 0, "recv_from_rank": 0, "pipe_id": 0}

    src: NkiTensor
    dst: NkiTensor
    send_to_rank: int
    recv_from_rank: int
    pipe_id: int
    carrier: DmaEngine = DmaEngine.dma

    def choose_engine(self) -> Engine:
        return Engine.gpsimd if self.carrier is DmaEngine.gpsimd_dma else Engine.dma

    def _bind_axis(
        self, axis: str, size: int, operand: Operand, value: NkiTensor, sizes: Sizes
    ) -> None:
        """Warn where the sizes differ; `_exchange` compares with what the other core brings."""
        if sizes.setdefault(axis, size) != size:
            advise(
                f"sendrecv: src {self.src} and dst {self.dst} are documented to have one shape; "
                "here each core receives what the other sends"
            )

    def meet(self, program: Program) -> int:
        self.require_two_cores(program)
        number: int = program.seat.meet(
            ("sendrecv", self.pipe_id),
            self,
            lambda brought: _exchange(brought, program.numeric),
            f"sendrecv on pipe {self.pipe_id}",
            self.opcode,
        )
        return number


def _exchange(brought: dict[int, SendRecv], numeric: bool) -> None:
    for core, mine in brought.items():
        theirs = brought[mine.recv_from_rank]
        if theirs.send_to_rank != core:
            raise mine.refuse(
                "a core receives from a core that sends to it",
                f"core {core} receives from core {mine.recv_from_rank}, which sends to core "
                f"{theirs.send_to_rank}",
                "pass the other core's number for both ranks on both cores",
            )
        sent, received = theirs.src, mine.dst
        if (sent.partitions, sent.free, sent.dtype) != (
            received.partitions, received.free, received.dtype,
        ):  # fmt: skip
            raise mine.refuse(
                "dst and what the other core sends must agree in shape and type",
                f"{sent} sent to {received}",
                "exchange equal tiles",
            )
    if not numeric:
        return
    sources = {core: (one.src.array.copy(), one.unwritten) for core, one in brought.items()}
    for mine in brought.values():
        values, mine.unwritten = sources[mine.recv_from_rank]
        mine.dst.array[...] = values.reshape(mine.dst.shape)


def _is_both(cores: object) -> bool:
    return isinstance(cores, tuple | list) and [*map(repr, cores)] == ["0", "1"]


@dataclass(slots=True, eq=False)
class CoreBarrier(Rendezvous):
    """Both cores wait until both are here; what they wrote to shared HBM before can be read.

    On one core there is nothing to wait for, whether documents refuse it there (until SDK 2.32) or
    let it wait for the neighbour on the same HBM stack (2.33), whose memory the kernel cannot name.
    """

    opcode: ClassVar[str] = "core_barrier"
    engines: ClassVar = (Engine.gpsimd, Engine.vector, Engine.scalar, Engine.tensor, Engine.sync)
    operands: ClassVar = (Operand("data", "E", UPDATE, memories=(SHARED_HBM,), dtypes=ANY_TYPE),)
    limits: ClassVar = ()
    rules: ClassVar = (
        Rule(
            "the cores are (0, 1)",
            lambda i, _: None if _is_both(i.participants) else repr(i.participants),
            "pass (0, 1)",
            "core_barrier",
        ),
    )
    work: ClassVar[str] = "data"
    numerics: ClassVar[str] = "moves nothing"
    cost: ClassVar[Costs] = Costs(words="a semaphore each way")
    since: ClassVar[NcVersion] = NcVersion.gen3
    cores: ClassVar[int] = 2
    example: ClassVar = {"participants": (0, 1)}

    data: NkiTensor
    participants: Sequence[int]

    def worked(self) -> int:
        return 0

    def settle(self, operand: Operand, tensor: NkiTensor) -> None:
        """Nothing is written."""

    def _check_operand(self, operand: Operand, value: NkiTensor, sizes: Sizes) -> None:
        if value.buffer is SBUF:
            advise(
                f"core_barrier: {operand.name} is documented to be in shared_hbm, and is {value}, "
                "which no other core can access; the cores wait all the same"
            )
        elif value.buffer not in operand.memories:
            raise self.refuse(
                f"{operand.name} must be in shared_hbm",
                str(value),
                "pass the tensor that both cores access",
            )

    def meet(self, program: Program) -> int:
        if program.num_programs == 1:
            advise(
                "core_barrier: on one core there is nothing to wait for; releases before SDK 2.33 "
                "refuse it there: skip it where nl.num_programs(0) is 1"
            )
            return 0
        self.require_two_cores(program)
        number: int = program.seat.meet(
            "core_barrier", self.data, _same_data, f"core_barrier on {self.data}", self.opcode
        )
        return number


def _same_data(brought: dict[Hashable, NkiTensor]) -> None:
    first, *others = brought.values()
    for other in others:
        if other.storage is not first.storage and not (other.buffer is first.buffer is SBUF):
            raise IllegalProgram(
                "core_barrier",
                "both cores name the same tensor",
                f"{first} and {other}",
                "pass the tensor that both cores access",
            )
