"""Top-8 search and cross-partition shuffling on the vector engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..constants import Engine
from ..dtypes import TABLE, Array
from ..machine import Program
from ..views import NkiTensor
from .alu import write
from .base import LANES, READ, UPDATE, WRITE, Instruction, Limit, Operand, Rule, Sizes
from .costs import Costs

SEARCH_WIDTH = Limit(
    "N", 16384, "max8", lowest=8, remedy="search in parts and then among their winners"
)
INDEX_TYPES = ("uint16", "uint32")
_AT_ONCE = 1 << 15  # elements of data: up to here one comparison with all 8 values is faster


@dataclass(slots=True, eq=False)
class Max8(Instruction):
    """dst = the 8 largest elements of each partition, descending; duplicates are repeated."""

    opcode: ClassVar[str] = "max8"
    engines: ClassVar = (Engine.vector,)
    operands: ClassVar = (Operand("dst", "P8", WRITE), Operand("src", "PN", READ))
    limits: ClassVar = (LANES, SEARCH_WIDTH)
    work: ClassVar[str] = "src"
    numerics: ClassVar[str] = "compares in fp32"
    cost: ClassVar[Costs] = Costs("N")

    dst: NkiTensor
    src: NkiTensor

    def execute(self, program: Program) -> None:
        values = self.src.rows32()
        largest = np.partition(values, values.shape[1] - 8, axis=1)[:, -8:]
        write(self.dst, np.sort(largest, axis=1)[:, ::-1])


@dataclass(slots=True, eq=False)
class NcFindIndex8(Instruction):
    """dst[k] = position of vals[k] in data (or all ones); equal values take successive ones."""

    opcode: ClassVar[str] = "nc_find_index8"
    engines: ClassVar = (Engine.vector,)
    operands: ClassVar = (
        Operand("dst", "P8", WRITE, dtypes=INDEX_TYPES),
        Operand("data", "PN", READ),
        Operand("vals", "P8", READ),
    )
    limits: ClassVar = (LANES, SEARCH_WIDTH)
    work: ClassVar[str] = "data"
    numerics: ClassVar[str] = "compares in fp32; first occurrence first"
    cost: ClassVar[Costs] = Costs("N")

    dst: NkiTensor
    data: NkiTensor
    vals: NkiTensor

    def execute(self, program: Program) -> None:
        missing = np.iinfo(TABLE[self.dst.dtype].numpy).max
        found = find_successive(self.data.rows32(), self.vals.rows32(), range(8), missing)
        self.dst.array[...] = found.reshape(self.dst.shape)


def find_successive(
    data: Array, values: Array, order: Sequence[int] | range, missing: int
) -> Array:
    """First position in data [P, N] of each values[:, k] [P, 8], each position taken once; int64.

    `order` is the order in which the 8 values choose; `missing` stands for no position.
    """
    ordered = np.sort(values, axis=1)
    repeated = bool((ordered[:, 1:] == ordered[:, :-1]).any())
    if not repeated and data.size <= _AT_ONCE:
        everywhere = data[:, None, :] == values[:, :, None]
        first = everywhere.argmax(axis=2)
        hit = np.take_along_axis(everywhere, first[:, :, None], axis=2)[:, :, 0]
        return np.where(hit, first, missing)
    free = np.ones(data.shape, np.bool_)
    found = np.empty(values.shape, np.int64)
    rows = np.arange(data.shape[0])
    for k in order:
        candidates = data == values[:, k : k + 1]
        if repeated:
            candidates &= free
        first = candidates.argmax(axis=1)
        hit = candidates[rows, first]
        found[:, k] = np.where(hit, first, missing)
        if repeated:
            free[rows[hit], first[hit]] = False
    return found


@dataclass(slots=True, eq=False)
class NcMatchReplace8(Instruction):
    """dst = data with one occurrence of each vals[k] replaced by imm; dst_idx[k] = where it was."""

    opcode: ClassVar[str] = "nc_match_replace8"
    engines: ClassVar = (Engine.vector,)
    operands: ClassVar = (
        Operand("dst", "PN", WRITE),
        Operand("data", "PN", READ),
        Operand("vals", "P8", READ),
        Operand("dst_idx", "P8", WRITE, dtypes=INDEX_TYPES, optional=True),
    )
    limits: ClassVar = (LANES, SEARCH_WIDTH)
    rules: ClassVar = (
        Rule(
            "imm is a Python number",
            lambda i, _: None if type(i.imm) in (int, float) else repr(i.imm),
            "pass a float",
            "nc_match_replace8",
        ),
    )
    work: ClassVar[str] = "data"
    numerics: ClassVar[str] = (
        "compares in fp32; of equal values the last of vals takes the first position"
    )
    cost: ClassVar[Costs] = Costs("N")
    example: ClassVar = {"imm": 0.0}

    dst: NkiTensor
    data: NkiTensor
    vals: NkiTensor
    imm: float
    dst_idx: NkiTensor | None = None

    def execute(self, program: Program) -> None:
        data = self.data.rows32()
        missing = np.iinfo(np.uint32).max
        found = find_successive(data, self.vals.rows32(), range(7, -1, -1), missing)
        row, k = np.nonzero(found != missing)
        replaced = data.copy()
        replaced[row, found[row, k]] = self.imm
        write(self.dst, replaced)
        if self.dst_idx is not None:
            kept = np.minimum(found, np.iinfo(TABLE[self.dst_idx.dtype].numpy).max)
            self.dst_idx.array[...] = kept.reshape(self.dst_idx.shape)


KEEP = 255
"""Entry of a shuffle mask that leaves its row as it is."""


def _bad_mask(instruction: Any, _: Sizes) -> str | None:
    mask = instruction.shuffle_mask
    legal = isinstance(mask, list | tuple) and len(mask) == 32
    legal = legal and all(type(m) is int and (0 <= m < 32 or m == KEEP) for m in mask)
    return None if legal else repr(mask)


def _rows_missing(instruction: Any, sizes: Sizes) -> str | None:
    if _bad_mask(instruction, sizes) is not None:
        return None
    _, sources = instruction.moves()
    highest = max(sources, default=0)
    return f"row {highest} of src {instruction.src}" if highest >= sizes["S"] else None


@dataclass(slots=True, eq=False)
class NcStreamShuffle(Instruction):
    """dst[32q + i] = src[32q + mask[i]] in every group q of 32 partitions; 255 keeps dst's row."""

    opcode: ClassVar[str] = "nc_stream_shuffle"
    engines: ClassVar = (Engine.vector,)
    operands: ClassVar = (Operand("dst", "DF", UPDATE), Operand("src", "SF", READ))
    limits: ClassVar = (
        Limit("D", 128, "the memories have 128 partitions"),
        Limit("S", 128, "the memories have 128 partitions"),
    )
    rules: ClassVar = (
        Rule(
            "the mask is a list of 32 numbers in 0..31, or 255",
            _bad_mask,
            "write 32 entries",
            "nc_stream_shuffle",
        ),
        Rule(
            "the mask reads rows of src only",
            _rows_missing,
            "shuffle one group of 32 at a time",
            "nc_stream_shuffle",
        ),
        Rule(
            "src and dst have the same type",
            lambda i, _: f"{i.src} and {i.dst}" if i.src.dtype != i.dst.dtype else None,
            "convert first",
            "nc_stream_shuffle",
        ),
    )
    numerics: ClassVar[str] = "bit copy"
    example: ClassVar = {"shuffle_mask": [0] * 32}

    dst: NkiTensor
    src: NkiTensor
    shuffle_mask: Sequence[int]

    def moves(self) -> tuple[list[int], list[int]]:
        """Rows of dst that are written, and the rows of src that they take."""
        rows = [r for r in range(self.dst.partitions) if self.shuffle_mask[r % 32] != KEEP]
        return rows, [r // 32 * 32 + self.shuffle_mask[r % 32] for r in rows]

    def execute(self, program: Program) -> None:
        rows, sources = self.moves()
        values = self.src.rows()[sources]
        self.dst.array[rows] = values.reshape((len(rows), *self.dst.shape[1:]))

    def settle(self, operand: Operand, tensor: NkiTensor) -> None:
        rows, _ = self.moves()
        if len(rows) == tensor.partitions:
            Instruction.settle(self, operand, tensor)
            return
        chosen = np.zeros(tensor.shape, np.bool_)
        chosen[rows] = True
        tensor.mark_written_where(chosen)
