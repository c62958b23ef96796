"""Collectives: instructions in which the ranks of a group meet (`ranks.run`).

On a launch of two cores both call the collective. Where they name the same windows of shared HBM
it is one collective of the whole rank; otherwise core c exchanges with core c of the other ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ..constants import HBM, SBUF, Engine, NcVersion
from ..dtypes import TABLE, Array, store, to_float32
from ..groups import ReplicaGroup
from ..machine import Program, current
from ..operators import OPS, Op
from ..views import NkiTensor
from ..world import Place
from .base import READ, WRITE, Operand, Rule, Sizes
from .costs import Costs
from .rendezvous import Rendezvous

ANY_TYPE = tuple(TABLE)
EVERYWHERE = (SBUF, *HBM)
REDUCTIONS = (OPS["add"], OPS["minimum"], OPS["maximum"])
Seats = dict[int, "Collective"]
"""The same collective on the ranks of a group, in the group's order."""


def _mixed(instruction: Any, _: Sizes) -> str | None:
    tensors = [t for _, t in instruction.tensors()]
    on_chip = [t for t in tensors if t.on_chip]
    if on_chip and len(on_chip) != len(tensors):
        return f"{on_chip[0]} beside tensors in HBM"
    if on_chip and (len(instruction.srcs) > 1 or any(t.ndim != 2 for t in on_chip)):
        return ", ".join(map(str, on_chip))
    return None


ONE_MEMORY = Rule(
    "all tensors are in HBM, or one source and one destination of rank 2 are in SBUF",
    _mixed,
    "copy them to HBM",
    "nki.collectives",
)
PAIRED = Rule(
    "there is one destination for each source, of the same type",
    lambda i, _: (
        None
        if [s.dtype for s in i.srcs] == [d.dtype for d in i.dsts]
        else f"srcs {i.srcs!r}, dsts {i.dsts!r}"
    ),
    "allocate each destination with its source's type",
    "nki.collectives",
)


def _kernel_inputs(instruction: Any, _: Sizes) -> str | None:
    seat = current(instruction.opcode).seat
    inputs = seat.crew.inputs if seat is not None else frozenset()
    outside = [t for _, t in instruction.tensors() if t.storage.serial in inputs]
    return str(outside[0]) if outside else None


OWN_TENSORS = Rule(
    "collectives work on tensors that the kernel allocates, not on its arguments",
    _kernel_inputs,
    "copy the argument with nisa.dma_copy first",
    "nki-library: the compiler refuses collectives on inputs and outputs",
)
REDUCES = Rule(
    "op is nl.add, nl.minimum or nl.maximum",
    lambda i, _: None if i.op in REDUCTIONS else repr(i.op),
    "reduce on chip after an all_gather",
    "nki.collectives",
)


def _in_hbm(instruction: Any, _: Sizes) -> str | None:
    on_chip = [t for _, t in instruction.tensors() if t.on_chip]
    return str(on_chip[0]) if on_chip else None


IN_HBM = Rule("the tensors are in HBM", _in_hbm, "copy them to HBM", "nki.collectives")


def _one_tensor(instruction: Any, _: Sizes) -> str | None:
    counts = len(instruction.srcs), len(instruction.dsts)
    return None if counts == (1, 1) else f"{counts[0]} sources, {counts[1]} destinations"


ONE_TENSOR = Rule(
    "there is one source and one destination", _one_tensor, "call it once per tensor",
    "nki.collectives",
)  # fmt: skip


def dimension(*on_chip: int) -> Rule:
    def broken(instruction: Any, _: Sizes) -> str | None:
        legal = on_chip if instruction.srcs[0].on_chip else (0,)
        dim = instruction.collective_dim
        return None if dim in legal else f"collective_dim={dim!r} of {instruction.srcs[0]}"

    return Rule(
        f"collective_dim is 0 in HBM, {' or '.join(map(str, on_chip))} in SBUF",
        broken,
        "reorder the data",
        "nki.collectives",
    )


@dataclass(slots=True, eq=False)
class Collective(Rendezvous):
    """Base of the collectives.

    A subclass computes what one rank receives from what all ranks of its group brought.
    """

    engines: ClassVar = (Engine.dma,)
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("srcs", "S", READ, memories=EVERYWHERE, dtypes=ANY_TYPE, many=True),
        Operand("dsts", "D", WRITE, memories=EVERYWHERE, dtypes=ANY_TYPE, many=True),
    )
    limits: ClassVar = ()
    numerics: ClassVar[str] = "bit copy"
    cost: ClassVar[Costs] = Costs(words="about 10 us")
    since: ClassVar[NcVersion] = NcVersion.gen2

    srcs: Sequence[NkiTensor]
    dsts: Sequence[NkiTensor]
    priority: int | None = field(default=None, kw_only=True)

    def worked(self) -> int:
        return sum(tensor.size for tensor in self.srcs)

    def read_later(self) -> None:
        """Raise UninitialisedRead unless all that is sent has been written, by any core."""
        for operand, tensor in self.tensors():
            if operand.access is READ:
                tensor.require_written(self.opcode, operand.name)

    def _check_many(
        self, operand: Operand, values: object, sizes: Sizes
    ) -> list[tuple[str, NkiTensor]]:
        """As for all instructions; what must have been written is known when the ranks meet."""
        Rendezvous._check_many(self, operand, values, sizes)
        return []

    def _bind_axis(
        self, axis: str, size: int, operand: Operand, value: NkiTensor, sizes: Sizes
    ) -> None:
        """Sizes are compared when the ranks meet."""

    # -- who takes part ----------------------------------------------------------------------------

    def group(self) -> tuple[int, ...]:
        """The ranks that this rank meets, in order."""
        raise NotImplementedError

    def place(self, program: Program) -> Place:
        """This rank.

        Raises:
            IllegalProgram: the group names ranks that do not run.
        """
        where: Place | None = program.seat.crew.place if program.seat is not None else None
        running = where.world.size if where is not None else 1
        missing = [rank for rank in self.group() if rank >= running]
        if missing or where is None:
            raise self.refuse(
                "the ranks of the group run side by side",
                f"ranks {sorted(set(self.group()))} where {running} run"
                if missing
                else "a launch outside of ranks",
                "start them with nki_sim.ranks.run(..., ranks=N)",
            )
        return where

    def meet(self, program: Program) -> int:
        where = self.place(program)
        crew, members = program.seat.crew, self.group()
        key = (*self.meeting_key(), crew.cores)
        return where.world.scheduler.meet(
            key,
            len(members) * crew.cores,
            (where.rank, program.program_id),
            (self, program),
            lambda brought: _together(brought, members),
            f"{self.opcode} with ranks {list(members)}",
            self.opcode,
        )

    def meeting_key(self) -> tuple[Any, ...]:
        """What distinguishes this collective from others of other ranks."""
        return ("collective", self.group())

    # -- what it does ------------------------------------------------------------------------------

    def agree(self, other: Collective) -> bool:
        """Whether another rank's collective is the same."""
        return (
            type(self) is type(other)
            and [(t.shape, t.dtype) for t in self.srcs] == [(t.shape, t.dtype) for t in other.srcs]
            and self.settings() == other.settings()
        )

    def settings(self) -> tuple[Any, ...]:
        """What must be equal on all ranks besides shapes and types."""
        return ()

    def received_shapes(self, ranks: int) -> list[tuple[int, ...]]:
        """The shapes of what a rank of a group of `ranks` receives."""
        return [source.shape for source in self.srcs]

    def receive(self, seats: Seats, rank: int, number: int) -> Array | None:
        """What `rank` receives in destination `number`; None leaves it as it is."""
        raise NotImplementedError

    def check_shapes(self, ranks: int) -> None:
        """Raise unless the destinations have the shapes of what arrives."""
        wanted = self.received_shapes(ranks)
        found = [tensor.shape for tensor in self.dsts]
        if wanted != found:
            raise self.refuse(
                f"with {ranks} ranks the destinations have the shapes {wanted}",
                f"{found} for sources {[tensor.shape for tensor in self.srcs]}",
                "allocate the destinations accordingly",
            )

    def deliver(self, results: list[Array | None]) -> None:
        """Write what arrived."""
        for tensor, values in zip(self.dsts, results, strict=True):
            if values is not None:
                assign(tensor, values)

    def settle(self, operand: Operand, tensor: NkiTensor) -> None:
        """Done by `_together`, which knows who received something."""


def assign(tensor: NkiTensor, values: Array) -> None:
    """Write a result, rounding once where it is fp32 and the tensor is not."""
    target = tensor.array
    if values.dtype == target.dtype:
        target[...] = values.reshape(target.shape)
    else:
        store(target, values.reshape(target.shape))


def _together(
    brought: dict[tuple[int, int], tuple[Collective, Program]], members: tuple[int, ...]
) -> None:
    """Execute the collective of all cores of all ranks."""
    crews = {program.seat.crew for _, program in brought.values()}
    for crew in crews:
        crew.check_races()
    cores = {core for _, core in brought}
    exchanges = [{rank: brought[rank, core][0] for rank in members} for core in sorted(cores)]
    numeric = all(program.numeric for _, program in brought.values())
    pending: list[tuple[Collective, list[Array | None]]] = []
    for number, seats in enumerate(exchanges):
        _check_agreement(seats)
        for one in seats.values():
            one.read_later()
        again = number and all(_same_place(seats[r], exchanges[0][r]) for r in members)
        for rank, one in seats.items():
            one.check_shapes(len(members))
            if not again and numeric:
                results = [one.receive(seats, rank, n) for n in range(len(one.dsts))]
                pending.append((one, results))
            elif not numeric:
                for tensor in one.dsts:
                    tensor.mark_written()
    for one, results in pending:
        one.deliver(results)
        for tensor, values in zip(one.dsts, results, strict=True):
            if values is not None:
                tensor.mark_written()


def _same_place(one: Collective, other: Collective) -> bool:
    def windows(collective: Collective) -> list[tuple[Any, ...]]:
        tensors = [*collective.srcs, *collective.dsts]
        return [(t.storage.serial, t.shape, t.strides, t.offset) for t in tensors]

    return windows(one) == windows(other)


def _check_agreement(seats: Seats) -> None:
    first = next(iter(seats.values()))
    for rank, other in seats.items():
        if not first.agree(other):
            ours, theirs = (
                f"{one.opcode}{[(t.shape, t.dtype) for t in one.srcs]} {one.settings()}"
                for one in (first, other)
            )
            raise first.refuse(
                "every rank of a group calls the same collective on equal shapes and types",
                f"{ours} on rank {next(iter(seats))}, {theirs} on rank {rank}",
                "call it alike on all ranks",
            )


def total(op: Op, arrays: list[Array]) -> Array:
    """The reduction of arrays of one type: integers exactly, else in fp32 and in rank order."""
    if arrays[0].dtype.kind in "iu":
        wide = [array.astype(np.int64) for array in arrays]
    else:
        wide = [to_float32(array) for array in arrays]
    result = wide[0]
    assert op.alu is not None
    for array in wide[1:]:
        result = op.alu(result, array)
    return np.asarray(result)


@dataclass(slots=True, eq=False)
class Grouped(Collective):
    """A collective within a `ReplicaGroup`."""

    replica_group: ReplicaGroup

    def group(self) -> tuple[int, ...]:
        where = current(self.opcode).seat
        rank = where.crew.place.rank if where is not None and where.crew.place is not None else 0
        if not isinstance(self.replica_group, ReplicaGroup):
            raise self.refuse("replica_group is a ReplicaGroup", repr(self.replica_group))
        for one in self.replica_group.groups:
            if rank in one:
                return one
        raise self.refuse(
            "a rank calls the collectives of its own group",
            f"rank {rank} and {self.replica_group!r}",
            "add the rank to a list of the group",
        )
