"""The GpSimd engine's data-dependent instructions: gathers, searches, segments.

Each of its eight cores works on 16 partitions of SBUF by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..constants import SBUF, Engine, NcVersion
from ..dtypes import TABLE, Array
from ..errors import IllegalProgram
from ..machine import Program
from ..views import NkiTensor
from .alu import write
from .base import READ, UPDATE, WRITE, Instruction, Limit, Operand, Rule, Sizes
from .costs import Costs

ANY_TYPE = tuple(TABLE)
CORE = 16
"""Partitions per GpSimd core."""

WHOLE_CORES = Rule(
    "the number of partitions is a multiple of 16",
    lambda i, s: f"{s['P']} partitions" if s["P"] % CORE else None,
    "work on all partitions of a GpSimd core",
    "a GpSimd core reads 16 partitions",
)
_AT_LEAST_A_CORE = Limit("P", 128, "eight cores of 16 partitions", lowest=CORE)


def _same_type(*names: str) -> Rule:
    def broken_by(instruction: Any, _: Sizes) -> str | None:
        first, second = (getattr(instruction, name) for name in names)
        return f"{first} and {second}" if first.dtype != second.dtype else None

    return Rule(
        f"{names[0]} has the type of {names[1]}", broken_by, "convert in another instruction",
        "gathers move bits",
    )  # fmt: skip


def _require_in_range(operation: str, index: Array, count: int, what: str) -> None:
    if index.size and (worst := int(index.max())) >= count:
        raise IllegalProgram(
            operation,
            f"an index stays within {what}, 0..{count - 1}; beyond it the result is undefined",
            f"index {worst}",
            "clamp the indices",
        )


@dataclass(slots=True, eq=False)
class NcNGather(Instruction):
    """dst[p, k] = data[p, indices[p, k]], free dimensions flattened."""

    opcode: ClassVar[str] = "nc_n_gather"
    engines: ClassVar = (Engine.gpsimd,)
    operands: ClassVar = (
        Operand("dst", "PK", WRITE, memories=(SBUF,), dtypes=ANY_TYPE),
        Operand("data", "PF", READ, memories=(SBUF,), dtypes=ANY_TYPE),
        Operand("indices", "PK", READ, memories=(SBUF,), dtypes=("uint32",)),
    )
    rules: ClassVar = (_same_type("dst", "data"),)
    numerics: ClassVar[str] = "bit copy"
    cost: ClassVar[Costs] = Costs("150 + N", words="not published (ceil(N / 512) instructions)")

    dst: NkiTensor
    data: NkiTensor
    indices: NkiTensor

    def execute(self, program: Program) -> None:
        index = self.indices.rows().astype(np.int64)
        _require_in_range(self.opcode, index, self.data.free, "data's elements per partition")
        gathered = np.take_along_axis(self.data.rows(), index, axis=1)
        self.dst.array[...] = gathered.reshape(self.dst.shape)


_ELEMENTS_PER_INDEX = (1, 2, 4, 8, 16, 32)
_MOST_INDICES = 4096


def _index_counts(instruction: Any, sizes: Sizes) -> str | None:
    each, valid, held = instruction.num_elem_per_idx, instruction.valid(), CORE * sizes["J"]
    legal = type(each) is int and each in _ELEMENTS_PER_INDEX and type(valid) is int
    if legal and 1 <= valid <= min(held, _MOST_INDICES):
        return None
    return f"num_elem_per_idx={each!r}, {valid!r} valid indices of {held} per core"


def _gathered_count(instruction: Any, sizes: Sizes) -> str | None:
    if _index_counts(instruction, sizes) is not None:
        return None
    count = instruction.valid() * instruction.num_elem_per_idx
    return None if count == sizes["I"] else f"{count} elements for dst {instruction.dst}"


@dataclass(slots=True, eq=False)
class LocalGather(Instruction):
    """In each group of 16 partitions, dst[p] = the runs of src_buffer[p] that start at the group's
    indices, which are read down the partitions first.
    """

    opcode: ClassVar[str] = "local_gather"
    engines: ClassVar = (Engine.gpsimd,)
    operands: ClassVar = (
        Operand("dst", "PI", WRITE, memories=(SBUF,), dtypes=ANY_TYPE),
        Operand("src_buffer", "PF", READ, memories=(SBUF,), dtypes=ANY_TYPE),
        Operand("index", "PJ", READ, memories=(SBUF,), dtypes=("uint16",)),
    )
    limits: ClassVar = (_AT_LEAST_A_CORE,)
    rules: ClassVar = (
        WHOLE_CORES,
        _same_type("dst", "src_buffer"),
        Rule(
            "num_elem_per_idx is 1, 2, 4, 8, 16 or 32, and num_valid_indices counts at most "
            "index's elements per core and 4096",
            _index_counts,
            "gather in parts",
            "local_gather",
        ),
        Rule(
            "dst has num_valid_indices * num_elem_per_idx elements per partition",
            _gathered_count,
            "pass both counts",
            "local_gather",
        ),
    )
    numerics: ClassVar[str] = "bit copy"
    cost: ClassVar[Costs] = Costs(
        "150 + 8 * N", words="150 + num_valid_indices * num_elem_per_idx / C"
    )

    dst: NkiTensor
    src_buffer: NkiTensor
    index: NkiTensor
    num_elem_per_idx: int = 1
    num_valid_indices: int | None = None

    def valid(self) -> Any:
        """Valid indices per core."""
        given = self.num_valid_indices
        return CORE * self.index.free if given is None else given

    def execute(self, program: Program) -> None:
        source, index = self.src_buffer.rows(), self.index.rows()
        groups = len(index) // CORE
        flat = index.reshape(groups, CORE, -1).transpose(0, 2, 1).reshape(groups, -1)
        starts = flat[:, : self.valid(), None].astype(np.int64)
        places = (starts + np.arange(self.num_elem_per_idx)).reshape(groups, -1)
        _require_in_range(
            self.opcode, places, self.src_buffer.free, "src_buffer's elements per partition"
        )
        gathered = np.take_along_axis(source, np.repeat(places, CORE, axis=0), axis=1)
        self.dst.array[...] = gathered.reshape(self.dst.shape)


def _int32(*names: str) -> Rule:
    def broken_by(instruction: Any, _: Sizes) -> str | None:
        for name in names:
            value = getattr(instruction, name)
            if type(value) is not int or not -(2**31) <= value < 2**31:
                return f"{name}={value!r}"
        return None

    return Rule(f"{' and '.join(names)} are int32", broken_by, "pass a Python int", "int32 field")


@dataclass(slots=True, eq=False)
class NonzeroWithCount(Instruction):
    """Of partitions 0, 16, ..., 112 only: dst = positions of src's non-zero elements plus
    index_offset, then padding_val, and in the last element their count.
    """

    opcode: ClassVar[str] = "nonzero_with_count"
    engines: ClassVar = (Engine.gpsimd,)
    since: ClassVar[NcVersion] = NcVersion.gen3
    operands: ClassVar = (
        Operand("dst", "PU", UPDATE, memories=(SBUF,), dtypes=("int32",)),
        Operand("src", "PF", READ, memories=(SBUF,), dtypes=("float32", "int32")),
    )
    rules: ClassVar = (
        Rule(
            "dst has one element per partition more than src",
            lambda i, s: f"{i.dst} for {i.src}" if s["U"] != s["F"] + 1 else None,
            "allocate room for the count",
            "nonzero_with_count",
        ),
        _int32("index_offset", "padding_val"),
    )
    work: ClassVar[str] = "src"
    numerics: ClassVar[str] = "exact"
    cost: ClassVar[Costs] = Costs("150 + N", words="not published")

    dst: NkiTensor
    src: NkiTensor
    index_offset: int = 0
    padding_val: int = -1

    def read_window(self, operand: Operand, value: NkiTensor) -> NkiTensor:
        """The first row of each core."""
        rows = -(-value.partitions // CORE)
        strides = (CORE * value.strides[0], *value.strides[1:])
        return NkiTensor(
            value.storage, (rows, *value.shape[1:]), strides, value.offset, value.dtype
        )

    def execute(self, program: Program) -> None:
        source = self.src.rows()[::CORE]
        result = np.full((len(source), source.shape[1] + 1), self.padding_val, np.int32)
        for row, values in zip(result, source, strict=True):
            found = np.flatnonzero(values)
            row[: found.size] = found + self.index_offset
            row[-1] = found.size
        target = self.dst.array[::CORE]
        target[...] = result.reshape(target.shape)

    def settle(self, operand: Operand, tensor: NkiTensor) -> None:
        chosen = np.zeros(tensor.shape, np.bool_)
        chosen[::CORE] = True
        tensor.mark_written_where(chosen)


def _top_counts(instruction: Any, sizes: Sizes) -> str | None:
    n, k = instruction.n, sizes["K"]
    legal = type(n) is int and 8 <= n < 65536 and n <= CORE * sizes["F"] and k <= n
    return None if legal and k < 32768 else f"n={n!r}, K={k} on src {instruction.src}"


@dataclass(slots=True, eq=False)
class TopK(Instruction):
    """In each group of 16 partitions, the K largest of its n elements, ascending, and where they
    were; element e lies in partition e % 16, column e // 16, of inputs and results.

    K is the number of elements per partition of `val_dst`, of which ceil(K / 16) columns are
    written. Slots of the last of them beyond K hold undefined values: here NaN, and all ones.
    """

    opcode: ClassVar[str] = "topk"
    engines: ClassVar = (Engine.gpsimd,)
    since: ClassVar[NcVersion] = NcVersion.gen3
    operands: ClassVar = (
        Operand("val_dst", "PK", UPDATE, memories=(SBUF,), dtypes=("bfloat16",)),
        Operand("idx_dst", "PK", UPDATE, memories=(SBUF,), dtypes=("uint32",)),
        Operand("src", "PF", READ, memories=(SBUF,), dtypes=("bfloat16",)),
    )
    limits: ClassVar = (_AT_LEAST_A_CORE,)
    rules: ClassVar = (
        WHOLE_CORES,
        Rule(
            "8 <= n < 65536, n <= 16 * src's elements per partition, K <= n and K < 32768",
            _top_counts,
            "search in parts",
            "topk",
        ),
    )
    work: ClassVar[str] = "src"
    numerics: ClassVar[str] = "bit copy; of equal values the first ones are taken"
    fidelity: ClassVar[str] = "approximate (the order of results is not reliable on hardware)"
    cost: ClassVar[Costs] = Costs("64 * N + K", words="4n + K")
    example: ClassVar = {"n": 8}

    val_dst: NkiTensor
    idx_dst: NkiTensor
    src: NkiTensor
    n: int

    def execute(self, program: Program) -> None:
        source = self.src.rows()
        groups = len(source) // CORE
        snake = source.reshape(groups, CORE, -1).transpose(0, 2, 1).reshape(groups, -1)
        snake = snake[:, : self.n]
        order = np.argsort(-snake.astype(np.float32), axis=1, kind="stable")
        chosen = order[:, : self.val_dst.free][:, ::-1]
        values = np.take_along_axis(snake, chosen, axis=1)
        self._lay_out(self.val_dst, values, np.nan)
        self._lay_out(self.idx_dst, chosen.astype(np.uint32), 0xFFFFFFFF)

    def _lay_out(self, dst: NkiTensor, results: Array, undefined: float) -> None:
        """Write results [groups, K] into the first columns of dst, 16 to a column."""
        columns = -(-results.shape[1] // CORE)
        padded = np.full((len(results), columns * CORE), undefined, results.dtype)
        padded[:, : results.shape[1]] = results
        snake = padded.reshape(-1, columns, CORE).transpose(0, 2, 1).reshape(-1, columns)
        merged = dst.rows().copy()
        merged[:, :columns] = snake
        dst.array[...] = merged.reshape(dst.shape)

    def settle(self, operand: Operand, tensor: NkiTensor) -> None:
        if operand.access is READ:
            return
        chosen = np.zeros((tensor.partitions, tensor.free), np.bool_)
        chosen[:, : -(-tensor.free // CORE)] = True
        tensor.mark_written_where(chosen.reshape(tensor.shape))


@dataclass(slots=True, eq=False)
class SequenceBounds(Instruction):
    """dst[0, :, i] = start and end (exclusive) of the run of equal ids that element i is in;
    (n, -1) where the id is 0.
    """

    opcode: ClassVar[str] = "sequence_bounds"
    engines: ClassVar = (Engine.gpsimd,)
    operands: ClassVar = (
        Operand("dst", "1G", WRITE, memories=(SBUF,), dtypes=("float32", "int32")),
        Operand("segment_ids", "1F", READ, memories=(SBUF,), dtypes=("float32", "int32")),
    )
    limits: ClassVar = ()
    rules: ClassVar = (
        Rule(
            "dst has two elements for each of segment_ids",
            lambda i, s: f"{i.dst} for {i.segment_ids}" if s["G"] != 2 * s["F"] else None,
            "allocate (1, 2, n)",
            "sequence_bounds",
        ),
    )
    work: ClassVar[str] = "segment_ids"
    numerics: ClassVar[str] = "exact"
    cost: ClassVar[Costs] = Costs("150 + N", words="not published")

    dst: NkiTensor
    segment_ids: NkiTensor

    def execute(self, program: Program) -> None:
        ids = self.segment_ids.rows()[0]
        count = len(ids)
        edges = np.flatnonzero(ids[1:] != ids[:-1]) + 1
        starts, ends = np.concatenate(([0], edges)), np.concatenate((edges, [count]))
        run = np.repeat(np.arange(len(starts)), ends - starts)
        padding = ids == 0
        first = np.where(padding, count, starts[run])
        last = np.where(padding, -1, ends[run])
        write(self.dst, np.stack((first, last)).reshape(1, -1))
