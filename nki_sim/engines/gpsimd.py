"""The GpSimd engine: index patterns and selection by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from ..constants import SBUF, Engine
from ..dtypes import Array, store
from ..machine import Program
from ..operators import COMPARISONS, OPS, Op
from ..views import NkiTensor
from . import alu
from .base import READ, WRITE, Instruction, Operand, Rule, Sizes
from .costs import Costs


def _not_integers(instruction: Any, _: Sizes) -> str | None:
    offset, multiplier = instruction.offset, instruction.channel_multiplier
    if type(offset) is int and type(multiplier) is int:
        return None
    return f"offset={offset!r}, channel_multiplier={multiplier!r}"


INTEGER_TERMS = Rule(
    "offset and channel_multiplier are integers", _not_integers, "pass ints", "iota, affine_select"
)


def _bad_pattern(instruction: Any, sizes: Sizes) -> str | None:
    pattern = instruction.pattern
    legal = isinstance(pattern, list | tuple) and 1 <= len(pattern) <= 4
    legal = legal and all(
        isinstance(p, list | tuple)
        and len(p) == 2
        and type(p[0]) is int
        and type(p[1]) is int
        and p[1] >= 1
        for p in pattern
    )
    if not legal:
        return repr(pattern)
    count = int(np.prod([pair[1] for pair in pattern]))
    return (
        None
        if count == sizes["F"]
        else f"{pattern!r} ({count} elements) for {sizes['F']} per partition"
    )


PATTERN = Rule(
    "the pattern has 1 to 4 [step, count] pairs, counting the elements per partition in all",
    _bad_pattern,
    "match the pattern to the tile",
    "iota, affine_select",
)


@lru_cache(maxsize=256)
def _affine(
    pattern: tuple[tuple[int, int], ...], offset: int, channel_multiplier: int, rows: int
) -> Array:
    """offset + p * channel_multiplier + sum(step * index), int64 [rows, elements], read-only."""
    values = np.zeros(1, np.int64)
    for step, count in pattern:
        values = (values[:, None] + np.arange(count, dtype=np.int64) * step).reshape(-1)
    result: Array = values + offset + channel_multiplier * np.arange(rows, dtype=np.int64)[:, None]
    return result


def affine(
    pattern: Sequence[Sequence[int]], offset: int, channel_multiplier: int, rows: int
) -> Array:
    """The affine index expression of `iota` and `affine_select` over [rows, elements]."""
    return _affine(tuple((pair[0], pair[1]) for pair in pattern), offset, channel_multiplier, rows)


@dataclass(slots=True, eq=False)
class Iota(Instruction):
    """dst[p, k] = offset + p * channel_multiplier + sum(step * index), p within the window."""

    opcode: ClassVar[str] = "iota"
    engines: ClassVar = (Engine.gpsimd,)
    operands: ClassVar = (Operand("dst", "PF", WRITE, memories=(SBUF,)),)
    rules: ClassVar = (PATTERN, INTEGER_TERMS)
    numerics: ClassVar[str] = "integer, then one conversion"
    cost: ClassVar[Costs] = Costs("150 + N")
    example: ClassVar = {"pattern": [[1, 8]]}

    dst: NkiTensor
    pattern: Sequence[Sequence[int]]
    offset: int = 0
    channel_multiplier: int = 0

    def execute(self, program: Program) -> None:
        values = affine(self.pattern, self.offset, self.channel_multiplier, self.dst.partitions)
        store(self.dst.array, values.reshape(self.dst.shape))


@dataclass(slots=True, eq=False)
class AffineSelect(Instruction):
    """dst = on_true_tile where cmp_op(affine index, 0), else on_false_value."""

    opcode: ClassVar[str] = "affine_select"
    engines: ClassVar = (Engine.gpsimd,)
    operands: ClassVar = (
        Operand("dst", "PF", WRITE, memories=(SBUF,)),
        Operand("on_true_tile", "PF", READ, memories=(SBUF,)),
    )
    rules: ClassVar = (
        PATTERN,
        INTEGER_TERMS,
        Rule(
            "on_false_value is a Python number",
            lambda i, _: None if type(i.on_false_value) in (int, float) else repr(i.on_false_value),
            "pass a float",
            "affine_select",
        ),
    )
    numerics: ClassVar[str] = "integer comparison; values through fp32"
    cost: ClassVar[Costs] = Costs("150 + N")
    example: ClassVar = {"pattern": [[1, 8]], "channel_multiplier": 1, "on_false_value": 0.0}

    dst: NkiTensor
    pattern: Sequence[Sequence[int]]
    channel_multiplier: int
    on_true_tile: NkiTensor
    on_false_value: float
    cmp_op: Op = OPS["equal"]
    offset: int = 0

    def check(self) -> Sizes:
        alu.require_op(self.opcode, "cmp_op", self.cmp_op, COMPARISONS)
        return Instruction.check(self)

    def execute(self, program: Program) -> None:
        index = affine(self.pattern, self.offset, self.channel_multiplier, self.dst.partitions)
        chosen = alu.apply(self.cmp_op, index, 0, False)
        false = np.float32(self.on_false_value)
        alu.write(self.dst, np.where(chosen, self.on_true_tile.rows32(), false))
