"""DMA: copies between HBM and SBUF, with conversion, gathering and scattering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..constants import HBM, SBUF, DgeMode, Engine, OobMode
from ..dtypes import TABLE, Array, store, to_float32
from ..indirect import IndirectTensor
from ..machine import Program, current
from ..schedule import call_site
from ..views import NkiTensor
from . import dge
from .base import READ, WRITE, Instruction, Operand, Rule, Sizes
from .copies import copy_cast
from .costs import Costs

_REACH = (SBUF, *HBM)


def _hwdge_casts(instruction: Any, _: Sizes) -> str | None:
    if instruction.dge_mode is DgeMode.hwdge and instruction.dst.dtype != instruction.src.dtype:
        return f"{instruction.src} to {instruction.dst}"
    return None


@dataclass(slots=True, eq=False)
class DmaCopy(Instruction):
    """dst = src in row-major order, cast to dst's type; dynamic offsets gather and scatter."""

    opcode: ClassVar[str] = "dma_copy"
    engines: ClassVar = (Engine.dma,)
    operands: ClassVar = (
        Operand("dst", "E", WRITE, memories=_REACH, dtypes=tuple(TABLE)),
        Operand("src", "E", READ, memories=_REACH, dtypes=tuple(TABLE)),
    )
    limits: ClassVar = ()
    rules: ClassVar = (
        Rule(
            "hardware descriptors do not convert types",
            _hwdge_casts,
            "use another dge_mode",
            "dma_copy, NKI 0.3",
        ),
        dge.HWDGE_SINCE_TRN2,
        dge.VECTOR_NEEDS_SWDGE,
        dge.BATCH,
        dge.QUEUE,
        dge.PRIORITY,
    )
    timed: ClassVar[tuple[str, ...]] = (
        "dge_mode",
        "queue",
    )
    numerics: ClassVar[str] = "bit copy between equal types, else through fp32"
    cost: ClassVar[Costs] = Costs(words="about 2 us + bytes / bandwidth")

    dst: NkiTensor
    src: NkiTensor
    oob_mode: OobMode = OobMode.error
    dge_mode: DgeMode = DgeMode.unknown
    queue: Engine = Engine.unknown
    priority: int | None = None

    def stand_in(self, operand: Operand, value: object) -> NkiTensor | None:
        if isinstance(value, IndirectTensor) and not value.on_chip:
            return value
        return Instruction.stand_in(self, operand, value)

    def execute(self, program: Program) -> None:
        if isinstance(self.src, IndirectTensor):
            self._gather(self.src)
        elif isinstance(self.dst, IndirectTensor):
            self._scatter(self.dst)
        else:
            copy_cast(self.dst, self.src, self.opcode)
            self.dst.mark_written()

    def settle(self, operand: Operand, tensor: NkiTensor) -> None:
        """Done by `execute`, which knows which rows were skipped."""

    def overwrites(self, operand: Operand) -> bool:
        return not isinstance(self.src, IndirectTensor)

    def _gather(self, src: IndirectTensor) -> None:
        if isinstance(self.dst, IndirectTensor):
            raise self.refuse(
                "one side of a DMA has a dynamic offset", f"{self.src} and {self.dst}"
            )
        window = src.resolved(self.opcode)
        if window is not None:
            copy_cast(self.dst, window, self.opcode)
            self.dst.mark_written()
            return
        places, rows = src.elements(self.opcode, self.oob_mode)
        values = src.storage_elements()[np.where(_rows(rows, places), places, 0)]
        target = self.dst.array
        if rows.all():
            _assign(target, values.reshape(target.shape))
            self.dst.mark_written()
            return
        chosen = np.broadcast_to(_rows(rows, places), places.shape).reshape(target.shape)
        merged = target.copy()
        _assign(merged, values.reshape(target.shape))
        np.copyto(target, merged, where=chosen)
        self.dst.mark_written_where(chosen)

    def _scatter(self, dst: IndirectTensor) -> None:
        window = dst.resolved(self.opcode)
        if window is not None:
            copy_cast(window, self.src, self.opcode)
            window.mark_written()
            return
        places, rows = dst.elements(self.opcode, self.oob_mode)
        repeated = dst.repeated_index(rows) if dst.vector else None
        if repeated is not None:
            current(self.opcode).launch.find(
                f"dma_copy ({call_site()}): scatters to row {repeated} of {dst} more than once; "
                "which of them stays is undefined (here: the last)"
            )
        chosen = places[rows]
        flat = dst.storage_elements()
        values = self.src.array.reshape(places.shape)[rows]
        converted = np.empty(values.shape, flat.dtype)
        _assign(converted, values)
        flat[chosen] = converted
        dst.mark_elements(chosen.reshape(-1))


def _rows(rows: Array, places: Array) -> Array:
    """A mask of rows, shaped to broadcast over `places`."""
    return rows.reshape((-1,) + (1,) * (places.ndim - 1))


def _assign(target: Array, values: Array) -> None:
    """Copy the bits between equal types, else convert through fp32."""
    if target.dtype == values.dtype:
        target[...] = values
    else:
        store(target, to_float32(values))
