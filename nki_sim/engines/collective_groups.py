"""Collectives within a group of ranks: reductions, gathers, exchanges."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ..dtypes import NUMBERS, Array
from ..operators import Op
from ..views import NkiTensor
from .base import READ, UPDATE, WRITE, Operand, Rule, Sizes
from .collective import (
    EVERYWHERE,
    IN_HBM,
    ONE_MEMORY,
    ONE_TENSOR,
    OWN_TENSORS,
    PAIRED,
    REDUCES,
    Collective,
    Grouped,
    Seats,
    dimension,
    total,
)
from .dge import PRIORITY


@dataclass(slots=True, eq=False)
class AllReduce(Grouped):
    """Every rank receives the reduction of all ranks' sources."""

    opcode: ClassVar[str] = "all_reduce"
    operands: ClassVar = (
        Operand("srcs", "S", READ, memories=EVERYWHERE, dtypes=NUMBERS, many=True),
        Operand("dsts", "D", WRITE, memories=EVERYWHERE, dtypes=NUMBERS, many=True),
    )
    rules: ClassVar = (PAIRED, ONE_MEMORY, REDUCES, OWN_TENSORS, PRIORITY)
    numerics: ClassVar[str] = "fp32 in rank order, one rounding on write; integers exact"

    op: Op

    def settings(self) -> tuple[Any, ...]:
        return (self.op,)

    def receive(self, seats: Seats, rank: int, number: int) -> Array | None:
        return total(self.op, [one.srcs[number].array for one in seats.values()])


@dataclass(slots=True, eq=False)
class AllGather(Grouped):
    """Every rank receives all ranks' sources, one after the other."""

    opcode: ClassVar[str] = "all_gather"
    rules: ClassVar = (PAIRED, ONE_MEMORY, dimension(0, 1), OWN_TENSORS, PRIORITY)

    collective_dim: int

    def settings(self) -> tuple[Any, ...]:
        return (self.collective_dim,)

    def received_shapes(self, ranks: int) -> list[tuple[int, ...]]:
        return [_scaled(t.shape, self.collective_dim, ranks, 1) for t in self.srcs]

    def receive(self, seats: Seats, rank: int, number: int) -> Array | None:
        arrays = [one.srcs[number].array for one in seats.values()]
        return np.concatenate(arrays, axis=self.collective_dim)


@dataclass(slots=True, eq=False)
class ReduceScatter(Grouped):
    """Rank i of the group receives part i of the reduction of all ranks' sources."""

    opcode: ClassVar[str] = "reduce_scatter"
    operands: ClassVar = AllReduce.operands
    rules: ClassVar = (PAIRED, ONE_MEMORY, dimension(0), REDUCES, OWN_TENSORS, PRIORITY)
    numerics: ClassVar[str] = AllReduce.numerics

    collective_dim: int
    op: Op

    def settings(self) -> tuple[Any, ...]:
        return self.collective_dim, self.op

    def received_shapes(self, ranks: int) -> list[tuple[int, ...]]:
        return [_divided(self, t, ranks) for t in self.srcs]

    def receive(self, seats: Seats, rank: int, number: int) -> Array | None:
        whole = total(self.op, [one.srcs[number].array for one in seats.values()])
        return np.split(whole, len(seats))[list(seats).index(rank)]


@dataclass(slots=True, eq=False)
class AllToAll(Grouped):
    """Part j of rank i's source becomes part i of rank j's destination."""

    opcode: ClassVar[str] = "all_to_all"
    rules: ClassVar = (PAIRED, IN_HBM, dimension(0), OWN_TENSORS, PRIORITY)

    collective_dim: int

    def settings(self) -> tuple[Any, ...]:
        return (self.collective_dim,)

    def received_shapes(self, ranks: int) -> list[tuple[int, ...]]:
        for tensor in self.srcs:
            _divided(self, tensor, ranks)
        return [tensor.shape for tensor in self.srcs]

    def receive(self, seats: Seats, rank: int, number: int) -> Array | None:
        mine = list(seats).index(rank)
        parts = [np.split(one.srcs[number].array, len(seats))[mine] for one in seats.values()]
        return np.concatenate(parts)


def _scaled(shape: tuple[int, ...], dim: int, times: int, over: int) -> tuple[int, ...]:
    return (*shape[:dim], shape[dim] * times // over, *shape[dim + 1 :])


def _divided(collective: Collective, tensor: NkiTensor, ranks: int) -> tuple[int, ...]:
    if tensor.shape[0] % ranks:
        raise collective.refuse(
            f"dimension 0 divides into {ranks} parts, one per rank", str(tensor), "pad it"
        )
    return _scaled(tensor.shape, 0, 1, ranks)


def _bad_metadata(instruction: Any, _: Sizes) -> str | None:
    metadata = instruction.metadata_tensor
    rows, ranks = 4 if instruction.has_rdispls else 3, len(instruction.group())
    shape = (1, rows, ranks) if metadata.on_chip else (rows, ranks)
    return None if metadata.shape == shape else f"{metadata} where {shape} is needed"


@dataclass(slots=True, eq=False)
class AllToAllV(Grouped):
    """Flat parts of sizes known at run time: ``metadata_tensor`` holds, per rank, the counts and
    offsets of what is sent, the counts received (written here), and perhaps where they go.
    """

    opcode: ClassVar[str] = "all_to_all_v"
    operands: ClassVar = (
        *Collective.operands,
        Operand("metadata_tensor", "M", UPDATE, memories=EVERYWHERE, dtypes=("uint32",)),
    )
    rules: ClassVar = (
        ONE_TENSOR,
        PAIRED,
        Rule(
            "srcs and dsts are in HBM",
            lambda i, _: str(i.srcs[0]) if i.srcs[0].on_chip or i.dsts[0].on_chip else None,
            "copy them to HBM",
            "all_to_all_v",
        ),
        Rule(
            "metadata_tensor has 3 rows, 4 with has_rdispls, of one column per rank",
            _bad_metadata,
            "allocate it accordingly",
            "all_to_all_v",
        ),
        OWN_TENSORS,
        PRIORITY,
    )

    metadata_tensor: NkiTensor
    recv_counts_known: bool = False
    has_rdispls: bool = False
    counts: list[int] = field(default_factory=list, init=False)

    def settings(self) -> tuple[Any, ...]:
        return self.recv_counts_known, self.has_rdispls

    def agree(self, other: Collective) -> bool:
        """Ranks may have sources of different sizes."""
        return type(self) is type(other) and self.settings() == other.settings()

    def check_shapes(self, ranks: int) -> None:
        """Any sizes; the parts are checked when they are known."""

    def read_later(self) -> None:
        Grouped.read_later(self)
        metadata = self.metadata_tensor
        rows = [0, 1, *([3] if self.has_rdispls else [])]
        for row in rows:
            columns = self.read_columns(row, metadata.shape[-1])
            read = metadata[0, row, columns] if metadata.on_chip else metadata[row, columns]
            read.require_written(self.opcode, f"row {row} of metadata_tensor")

    def read_columns(self, row: int, ranks: int) -> slice:
        """The part of a row of the metadata that is read: what is sent to every rank."""
        return slice(0, ranks)

    def table(self) -> Array:
        """The metadata, int64 [rows, ranks]."""
        array = self.metadata_tensor.array
        return array.reshape(-1, array.shape[-1]).astype(np.int64)

    def sent_to(self, position: int) -> tuple[int, int]:
        """Count and offset of what goes to the rank at a position of the group."""
        count, start = self.table()[:2, position]
        return int(count), int(start)

    def receive(self, seats: Seats, rank: int, number: int) -> Array | None:
        ranks = list(seats)
        mine = ranks.index(rank)
        result = self.dsts[0].array.copy().reshape(-1)
        equal = result.size // len(ranks)
        for position, sender in enumerate(seats.values()):
            assert isinstance(sender, AllToAllV)
            count, start = sender.sent_to(mine)
            source = sender.srcs[0].array.reshape(-1)
            at = int(self.table()[3, position]) if self.has_rdispls else equal * position
            room = result.size - at if self.has_rdispls else equal
            if start + count > source.size or count > room:
                raise self.refuse(
                    "counts and offsets stay inside the tensors",
                    f"{count} elements from {start} of {sender.srcs[0]} on rank {ranks[position]} "
                    f"to {at} of {self.dsts[0]} on rank {rank}",
                    "correct the metadata",
                )
            result[at : at + count] = source[start : start + count]
            self.counts.append(count)
        return result

    def deliver(self, results: list[Array | None]) -> None:
        Collective.deliver(self, results)
        if not self.recv_counts_known:
            metadata = self.metadata_tensor
            row = metadata[0, 2, :] if metadata.on_chip else metadata[2, :]
            row.array[...] = np.array(self.counts).reshape(row.shape)
            row.mark_written()


@dataclass(slots=True, eq=False)
class AllGatherV(AllToAllV):
    """Every rank receives one flat part of every source, of sizes known at run time: the first
    column of ``metadata_tensor`` holds the count and the offset of what a rank sends to all.
    """

    opcode: ClassVar[str] = "all_gather_v"

    def sent_to(self, position: int) -> tuple[int, int]:
        return AllToAllV.sent_to(self, 0)

    def read_columns(self, row: int, ranks: int) -> slice:
        return slice(0, 1 if row < 2 else ranks)
