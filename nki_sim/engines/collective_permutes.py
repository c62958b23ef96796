"""Collectives that pass tensors on: by explicit pairs, or around the ring of a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..dtypes import NUMBERS, Array
from ..machine import Program
from ..operators import Op
from ..views import NkiTensor
from .base import READ, WRITE, Operand, Rule, Sizes
from .collective import (
    EVERYWHERE,
    IN_HBM,
    ONE_TENSOR,
    OWN_TENSORS,
    PAIRED,
    REDUCES,
    Collective,
    Grouped,
    Seats,
    total,
)
from .collective_groups import AllGather, AllGatherV, AllReduce, AllToAll, AllToAllV, ReduceScatter
from .dge import PRIORITY


def _bad_pairs(instruction: Any, _: Sizes) -> str | None:
    pairs = instruction.source_target_pairs
    legal = isinstance(pairs, list | tuple) and all(
        isinstance(p, list | tuple) and len(p) == 2 and all(type(r) is int for r in p)
        for p in pairs
    )
    legal = legal and bool(pairs)
    legal = legal and all(len({p[side] for p in pairs}) == len(pairs) for side in (0, 1))
    return None if legal else f"source_target_pairs={pairs!r}"


@dataclass(slots=True, eq=False)
class CollectivePermute(Collective):
    """The target of each pair receives the source's tensor; other destinations stay."""

    opcode: ClassVar[str] = "collective_permute"
    rules: ClassVar = (
        ONE_TENSOR,
        PAIRED,
        IN_HBM,
        Rule(
            "each pair is (source, target), and no rank is a source or a target twice",
            _bad_pairs,
            "correct the pairs",
            "collective_permute",
        ),
        OWN_TENSORS,
        PRIORITY,
    )

    source_target_pairs: Sequence[tuple[int, int]]

    def group(self) -> tuple[int, ...]:
        return tuple(sorted({rank for pair in self.source_target_pairs for rank in pair}))

    def meeting_key(self) -> tuple[Any, ...]:
        return ("collective", tuple(sorted(tuple(p) for p in self.source_target_pairs)))

    def meet(self, program: Program) -> int:
        where = self.place(program)
        if where.rank not in self.group():
            return 0
        return Collective.meet(self, program)

    def receive(self, seats: Seats, rank: int, number: int) -> Array | None:
        sources = [pair[0] for pair in self.source_target_pairs if pair[1] == rank]
        return seats[sources[0]].srcs[number].array.copy() if sources else None


def _bad_channels(instruction: Any, _: Sizes) -> str | None:
    channels = instruction.channel_ids
    legal = isinstance(channels, list | tuple) and len(set(channels)) == len(channels)
    legal = legal and all(type(c) is int and 0 <= c < 4 for c in channels)
    legal = legal and len(channels) == len(instruction.srcs) == len(instruction.dsts)
    if legal:
        return None
    return (
        f"channel_ids={channels!r} for {len(instruction.srcs)} sources and "
        f"{len(instruction.dsts)} destinations"
    )


CHANNELS = Rule(
    "there is one channel, 0 to 3, for each source and destination",
    _bad_channels,
    "pass one list of one tensor per channel",
    "collective_permute_implicit",
)


@dataclass(slots=True, eq=False)
class RingPermute(Grouped):
    """Every rank receives its predecessor's tensors in the ring of the group, per channel."""

    opcode: ClassVar[str] = "collective_permute_implicit"
    rules: ClassVar[tuple[Rule, ...]] = (CHANNELS, PAIRED, OWN_TENSORS, PRIORITY)

    channel_ids: Sequence[int]

    def settings(self) -> tuple[Any, ...]:
        return (tuple(self.channel_ids),)

    def meeting_key(self) -> tuple[Any, ...]:
        return ("ring", self.group(), tuple(self.channel_ids))

    def receive(self, seats: Seats, rank: int, number: int) -> Array | None:
        ring = list(seats)
        predecessor = seats[ring[ring.index(rank) - 1]]
        assert isinstance(predecessor, RingPermute)
        return predecessor.sent(number)

    def sent(self, number: int) -> Array:
        """What this rank sends to its successor on a channel."""
        return self.srcs[number].array.copy()


@dataclass(slots=True, eq=False)
class RingReduce(RingPermute):
    """Every rank receives ``op(srcs0, srcs1)`` of its predecessor in the ring, per channel."""

    opcode: ClassVar[str] = "collective_permute_implicit_reduce"
    operands: ClassVar = (
        Operand("srcs", "S", READ, memories=EVERYWHERE, dtypes=NUMBERS, many=True),
        Operand("srcs1", "S", READ, memories=EVERYWHERE, dtypes=NUMBERS, many=True),
        Operand("dsts", "D", WRITE, memories=EVERYWHERE, dtypes=NUMBERS, many=True),
    )
    rules: ClassVar = (
        *RingPermute.rules,
        REDUCES,
        Rule(
            "both operands of a reduction have one shape and type",
            lambda i, _: (
                None
                if [(t.shape, t.dtype) for t in i.srcs] == [(t.shape, t.dtype) for t in i.srcs1]
                else f"{i.srcs!r} and {i.srcs1!r}"
            ),
            "allocate them alike",
            "collective_permute_implicit_reduce",
        ),
    )
    numerics: ClassVar[str] = AllReduce.numerics

    srcs1: Sequence[NkiTensor]
    op: Op

    def settings(self) -> tuple[Any, ...]:
        return tuple(self.channel_ids), self.op

    def sent(self, number: int) -> Array:
        return total(self.op, [self.srcs[number].array, self.srcs1[number].array])


COLLECTIVES = (
    AllReduce,
    AllGather,
    ReduceScatter,
    AllToAll,
    AllToAllV,
    AllGatherV,
    CollectivePermute,
    RingPermute,
    RingReduce,
)
"""Every collective that is modelled."""
