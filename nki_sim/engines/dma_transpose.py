"""DMA transposes: static, by hardware descriptors, and of gathered rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..constants import HBM, SBUF, DgeMode, Engine, NcVersion, OobMode
from ..dtypes import TABLE
from ..indirect import IndexColumns, IndirectTensor
from ..machine import Program, current
from ..views import NkiTensor
from . import dge
from .base import READ, WRITE, Instruction, Operand, Rule, Sizes
from .costs import Costs

AXES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 1, 2, 0)}
"""The permutation for each rank."""

MOVED_TYPES = tuple(name for name, dtype in TABLE.items() if dtype.itemsize in (2, 4))


def _bad_axes(instruction: Any, _: Sizes) -> str | None:
    rank, axes = instruction.src.ndim, instruction.axes
    if rank not in AXES:
        return f"{instruction.src} of rank {rank}"
    if axes is None or (isinstance(axes, tuple | list) and tuple(axes) == AXES[rank]):
        return None
    return f"axes={axes!r} for rank {rank}"


def _bad_shape(instruction: Any, _: Sizes) -> str | None:
    wanted = instruction.permuted()
    dst = instruction.dst.shape
    if dst == wanted or (
        dst[0] == wanted[0] and [n for n in dst if n > 1] == [n for n in wanted if n > 1]
    ):
        return None
    return f"{instruction.src} to {instruction.dst} where {wanted} is needed"


def _bad_mode(instruction: Any, _: Sizes) -> str | None:
    vector = bool(dge.vectors(instruction))
    wrong = (DgeMode.hwdge, DgeMode.none) if vector else (DgeMode.swdge,)
    if instruction.dge_mode not in wrong:
        return None
    return f"dge_mode={instruction.dge_mode!r} with{'' if vector else 'out'} a vector_offset"


def _bad_hwdge(instruction: Any, _: Sizes) -> str | None:
    """SDK 2.32; earlier: the first dimension is 16 and the last a multiple of 128."""
    src = instruction.src
    if instruction.dge_mode is not DgeMode.hwdge:
        return None
    rows, height = src.shape[0], src.shape[-2]
    fits = rows == 16 if src.ndim == 2 else rows in (1, 2, 4, 8, 16) and rows * height % 16 == 0
    return None if fits and src.itemsize == 2 else str(src)


def _bad_gather(instruction: Any, _: Sizes) -> str | None:
    src = instruction.src
    if not dge.vectors(instruction):
        return None
    index = src.index.tile if isinstance(src.index, IndexColumns) else src.index
    rows = src.shape[0]
    legal = (
        src.itemsize == 2
        and src.buffer in HBM
        and rows % 16 == 0
        and index.dtype == "uint32"
        and 16 <= index.partitions <= 128
        and index.partitions % 16 == 0
        and (src.ndim < 4 or 1 in src.shape[1:3])
    )
    return None if legal else f"{src} by indices {index}"


def _gather_is_late(instruction: Any, _: Sizes) -> str | None:
    platform = current(instruction.opcode).platform
    if dge.vectors(instruction) and platform.version is NcVersion.gen2:
        return f"a vector_offset on {platform.name}"
    return None


@dataclass(slots=True, eq=False)
class DmaTranspose(Instruction):
    """dst = transpose(src, axes); with a vector_offset on src, of the rows that it selects."""

    opcode: ClassVar[str] = "dma_transpose"
    engines: ClassVar = (Engine.dma,)
    operands: ClassVar = (
        Operand("dst", "Q", WRITE, memories=(SBUF,), dtypes=MOVED_TYPES),
        Operand("src", "Q", READ, memories=(SBUF, *HBM), dtypes=MOVED_TYPES),
    )
    limits: ClassVar = ()
    rules: ClassVar = (
        Rule(
            "axes are (1, 0), (2, 1, 0) or (3, 1, 2, 0), by src's rank",
            _bad_axes,
            "reshape src, or leave axes out",
            "dma_transpose; NKI 0.2 knows rank 4 only",
        ),
        Rule(
            "the last dimension of src, which becomes the partition, is at most 128",
            lambda i, _: str(i.src) if i.src.shape[-1] > 128 else None,
            "split src",
            "dma_transpose",
        ),
        Rule(
            "dst has the permuted shape of src",
            _bad_shape,
            "allocate dst with the permuted shape",
            "dma_transpose, NKI 0.4; other dimensions of size 1 were legal before",
        ),
        Rule(
            "dst has src's type",
            lambda i, _: f"{i.src} to {i.dst}" if i.src.dtype != i.dst.dtype else None,
            "allocate dst with src's type",
            "dma_transpose",
        ),
        Rule(
            "descriptors of gathered rows are made in software, those of static ones are not",
            _bad_mode,
            "leave dge_mode out",
            "dma_transpose",
        ),
        Rule(
            "hardware descriptors transpose 2-byte types with 16 rows (rank 2), or 1, 2, 4, 8 or "
            "16 and a multiple of 16 of them times the dimension before the last",
            _bad_hwdge,
            "leave dge_mode out",
            "dma_transpose, SDK 2.32; before: 16 rows and a last dimension of a multiple of 128",
        ),
        Rule(
            "gathered rows are 2-byte elements in HBM, a multiple of 16 of them, by uint32 indices "
            "on 16 to 128 partitions (a multiple of 16); of rank 4, one middle dimension is 1",
            _bad_gather,
            "pad the indices, or gather with nisa.dma_copy and transpose on chip",
            "dma_transpose, DMA indirect transpose",
        ),
        Rule("gathered rows are transposed from trn2 on", _gather_is_late, "", "dma_transpose"),
        dge.HWDGE_SINCE_TRN2,
        dge.PRIORITY,
        dge.SKIP_NEEDS_INDEX,
    )
    timed: ClassVar[tuple[str, ...]] = ("dge_mode",)
    numerics: ClassVar[str] = "bit copy"
    cost: ClassVar[Costs] = Costs(words="about 2 us + bytes / bandwidth; slower than a copy")

    dst: NkiTensor
    src: NkiTensor
    axes: tuple[int, ...] | None = None
    dge_mode: DgeMode = DgeMode.unknown
    oob_mode: OobMode = OobMode.error
    priority: int | None = None

    def permuted(self) -> tuple[int, ...]:
        """The shape of the result."""
        shape = self.src.shape
        return tuple(shape[axis] for axis in AXES[len(shape)])

    def stand_in(self, operand: Operand, value: object) -> NkiTensor | None:
        if isinstance(value, IndirectTensor) and operand.name == "src" and not value.on_chip:
            return value
        return Instruction.stand_in(self, operand, value)

    def check(self) -> Sizes:
        sizes = Instruction.check(self)
        program = current(self.opcode)
        if program.checked and self.dst.shape != self.permuted():
            program.launch.find(
                f"dma_transpose: dst {self.dst.shape} instead of {self.permuted()} is refused from "
                "SDK 2.30 on"
            )
        return sizes

    def settle(self, operand: Operand, tensor: NkiTensor) -> None:
        """Done by `execute`, which knows which rows were skipped."""

    def overwrites(self, operand: Operand) -> bool:
        return not isinstance(self.src, IndirectTensor)

    def execute(self, program: Program) -> None:
        axes = AXES[self.src.ndim]
        target = self.dst.array
        if not isinstance(self.src, IndirectTensor):
            source = self.src.array
            if self.src.storage is self.dst.storage:
                source = source.copy()
            target[...] = source.transpose(axes).reshape(target.shape)
            self.dst.mark_written()
            return
        places, rows = self.src.elements(self.opcode, self.oob_mode)
        inside = np.broadcast_to(rows.reshape((-1,) + (1,) * (places.ndim - 1)), places.shape)
        values = self.src.storage_elements()[np.where(inside, places, 0)]
        chosen = inside.transpose(axes).reshape(target.shape)
        np.copyto(target, values.transpose(axes).reshape(target.shape), where=chosen)
        self.dst.mark_written_where(chosen)
