"""Sums inside the DMA engines: of several tensors, into scattered rows, of gathered rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..constants import HBM, SBUF, Engine, OobMode
from ..dtypes import NUMBERS, Array, store, to_float32
from ..errors import NotModelled
from ..indirect import IndirectTensor
from ..machine import Program
from ..operators import OPS, Op
from ..views import NkiTensor
from . import dge
from .base import READ, WRITE, Instruction, Operand, Rule, Sizes
from .costs import Costs

_REACH = (SBUF, *HBM)
MOST_SOURCES = 16


def _bad_sources(instruction: Any, _: Sizes) -> str | None:
    count = len(instruction.srcs)
    return None if 1 <= count <= MOST_SOURCES else f"{count} sources"


def _bad_scales(instruction: Any, _: Sizes) -> str | None:
    scales = instruction.scales
    if scales is None:
        return None
    if not isinstance(scales, list | tuple) or len(scales) != len(instruction.srcs):
        return f"scales={scales!r} for {len(instruction.srcs)} sources"
    return None if all(scale == 1.0 for scale in scales) else f"scales={scales!r}"


def _bad_indirect(instruction: Any, _: Sizes) -> str | None:
    """With a dynamic offset: two sources, one of which is what dst is."""
    dst, srcs = instruction.dst, instruction.srcs
    indirect = [t for t in (dst, *srcs) if isinstance(t, IndirectTensor)]
    if not indirect:
        return None
    if any(not t.vector for t in indirect):
        return f"a scalar_offset in {indirect[0]}"
    shown = f"dst {dst}, srcs {list(srcs)}"
    if len(srcs) != 2 or not any(same_window(dst, src) for src in srcs):
        return shown
    moved = srcs[0] if same_window(dst, srcs[1]) else srcs[1]
    gathers = isinstance(moved, IndirectTensor) and dst.buffer is SBUF
    scatters = isinstance(dst, IndirectTensor) and moved.buffer is SBUF
    return None if gathers != scatters else shown


def same_window(one: NkiTensor, other: NkiTensor) -> bool:
    """Whether two windows are the same elements, dynamic offsets included."""
    if type(one) is not type(other) or one.storage is not other.storage:
        return False
    if (one.shape, one.strides, one.offset, one.dtype) != (
        other.shape, other.strides, other.offset, other.dtype,
    ):  # fmt: skip
        return False
    if isinstance(one, IndirectTensor) and isinstance(other, IndirectTensor):
        return one.same_index(other)
    return True


@dataclass(slots=True, eq=False)
class DmaCompute(Instruction):
    """dst = the sum of srcs in fp32; with a vector_offset, dst += gathered or scattered rows."""

    opcode: ClassVar[str] = "dma_compute"
    engines: ClassVar = (Engine.dma,)
    operands: ClassVar = (
        Operand("dst", "E", WRITE, memories=_REACH, dtypes=NUMBERS),
        Operand("srcs", "E", READ, memories=_REACH, dtypes=NUMBERS, many=True),
    )
    limits: ClassVar = ()
    rules: ClassVar = (
        Rule("there are 1 to 16 sources", _bad_sources, "sum in several steps", "dma_compute"),
        Rule(
            "reduce_op is nl.add",
            lambda i, _: None if i.reduce_op is OPS["add"] else repr(i.reduce_op),
            "use nisa.tensor_tensor",
            "dma_compute",
        ),
        Rule(
            "scales are 1.0, one for each source",
            _bad_scales,
            "leave the scales out, and scale on chip",
            "dma_compute",
        ),
        Rule(
            "a vector_offset adds gathered rows to an SBUF tile, or an SBUF tile to scattered "
            "rows: two sources, one of them dst itself, and no scalar_offset",
            _bad_indirect,
            "pass srcs=[dst, other]",
            "dma_compute, read-modify-write",
        ),
        Rule(
            "unique_indices is True",
            lambda i, _: (
                f"unique_indices={i.unique_indices!r}"
                if i.unique_indices is not True and not i.legacy
                else None
            ),
            "combine rows with equal indices first",
            "dma_compute",
        ),
        dge.SKIP_NEEDS_INDEX,
    )
    numerics: ClassVar[str] = "fp32 sums in the order of srcs, one rounding on write"
    cost: ClassVar[Costs] = Costs(words="about 2 us + bytes / bandwidth")
    example: ClassVar = {"reduce_op": OPS["add"]}

    dst: NkiTensor
    srcs: Sequence[NkiTensor]
    reduce_op: Op
    scales: Sequence[float] | None = None
    unique_indices: bool = True
    oob_mode: OobMode = OobMode.error
    legacy: bool = False

    def check(self) -> Sizes:
        sizes = Instruction.check(self)
        if len(self.srcs) == 1:
            raise NotModelled(
                self.opcode,
                "one source is not modelled: documents disagree whether it is added to dst",
                str(self.srcs[0]),
                "use nisa.dma_copy, or pass srcs=[dst, src] to add",
            )
        return sizes

    def stand_in(self, operand: Operand, value: object) -> NkiTensor | None:
        if isinstance(value, IndirectTensor) and not value.on_chip:
            return value
        return Instruction.stand_in(self, operand, value)

    def settle(self, operand: Operand, tensor: NkiTensor) -> None:
        """Done by `execute`, which knows which rows were skipped."""

    def overwrites(self, operand: Operand) -> bool:
        return False

    def execute(self, program: Program) -> None:
        dst = self.dst
        if isinstance(dst, IndirectTensor):
            self._scatter(dst)
            return
        moved = [src for src in self.srcs if isinstance(src, IndirectTensor)]
        if moved:
            self._gather(moved[0])
            return
        total = _flat32(self.srcs[0])
        for source in self.srcs[1:]:
            total = total + _flat32(source)
        store(dst.array, total.reshape(dst.shape))
        dst.mark_written()

    def _gather(self, src: IndirectTensor) -> None:
        places, rows = src.elements(self.opcode, self.oob_mode)
        inside = np.broadcast_to(rows.reshape((-1,) + (1,) * (places.ndim - 1)), places.shape)
        added = to_float32(src.storage_elements()[np.where(inside, places, 0)])
        target = self.dst.array
        first = to_float32(target)
        total = np.where(inside.reshape(target.shape), first + added.reshape(target.shape), first)
        store(target, total)

    def _scatter(self, dst: IndirectTensor) -> None:
        places, rows = dst.elements(self.opcode, self.oob_mode)
        chosen = places[rows]
        moved = self.srcs[0] if same_window(dst, self.srcs[1]) else self.srcs[1]
        added = to_float32(moved.array).reshape(places.shape)[rows]
        flat = dst.storage_elements()
        if self.unique_indices:
            self._require_unique(dst, rows)
            store_into(flat, chosen, to_float32(flat[chosen]) + added)
        else:
            for row, values in zip(chosen, added, strict=True):
                store_into(flat, row, to_float32(flat[row]) + values)

    def _require_unique(self, dst: IndirectTensor, rows: Array) -> None:
        repeated = dst.repeated_index(rows)
        if repeated is not None:
            raise self.refuse(
                "the rows that are added to are different ones",
                f"index {repeated} more than once for {dst}",
                "combine rows with equal indices first; the engine would lose updates",
            )


def _flat32(tensor: NkiTensor) -> Array:
    return to_float32(tensor.array).reshape(-1)


def store_into(flat: Array, places: Array, values: Array) -> None:
    """Round `values` (fp32) once into the elements `places` of `flat`."""
    rounded = np.empty(values.shape, flat.dtype)
    store(rounded, values)
    flat[places] = rounded
