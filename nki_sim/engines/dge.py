"""What every DMA obeys: who makes its descriptors, from which queue, with which priority."""

from __future__ import annotations

from typing import Any

from ..constants import DgeMode, Engine, NcVersion, OobMode
from ..indirect import IndexColumns, IndirectTensor
from ..machine import PARTITIONS, current
from ..views import NkiTensor
from .base import Rule, Sizes

QUEUES = (Engine.sync, Engine.scalar)
"""The sequencers that trigger the hardware's descriptor generator."""


def _hwdge_late(instruction: Any, _: Sizes) -> str | None:
    if instruction.dge_mode is not DgeMode.hwdge:
        return None
    platform = current(instruction.opcode).platform
    late = platform.version is NcVersion.gen2
    return f"dge_mode={instruction.dge_mode!r} on {platform.name}" if late else None


HWDGE_SINCE_TRN2 = Rule(
    "hardware descriptors exist from trn2 on", _hwdge_late, "leave dge_mode out", "nki-dge guide"
)


def _bad_queue(instruction: Any, _: Sizes) -> str | None:
    queue = instruction.queue
    if queue is Engine.unknown or (
        queue in QUEUES and instruction.dge_mode in (DgeMode.hwdge, DgeMode.unknown)
    ):
        return None
    return f"engine={queue!r} with dge_mode={instruction.dge_mode!r}"


QUEUE = Rule(
    "engine is nisa.engine.sync or nisa.engine.scalar, which trigger hardware descriptors",
    _bad_queue,
    "leave the engine out, or use dge_mode.hwdge",
    "dma_copy; with dge_mode.unknown it is a hint",
)


def _bad_priority(instruction: Any, _: Sizes) -> str | None:
    priority = instruction.priority
    if priority is None:
        return None
    platform = current(instruction.opcode).platform
    if type(priority) is not int or not 0 <= priority <= 3:
        return f"priority={priority!r}"
    if platform.version < NcVersion.gen4:
        return f"priority={priority} on {platform.name}"
    return f"priority={priority} with {DgeMode.none!r}" if _without_dge(instruction) else None


def _without_dge(instruction: Any) -> bool:
    return getattr(instruction, "dge_mode", None) is DgeMode.none


PRIORITY = Rule(
    "priority is 0 to 3, from trn3 on, and needs generated descriptors",
    _bad_priority,
    "leave the priority out",
    "dma_copy",
)


def _vector_needs_software(instruction: Any, _: Sizes) -> str | None:
    if instruction.dge_mode in (DgeMode.hwdge, DgeMode.none) and vectors(instruction):
        return f"dge_mode={instruction.dge_mode!r} with a vector_offset"
    return None


VECTOR_NEEDS_SWDGE = Rule(
    "a vector_offset needs software descriptors",
    _vector_needs_software,
    "use dge_mode.swdge",
    "dma_copy",
)


def vectors(instruction: Any) -> list[IndirectTensor]:
    """The operands with a vector_offset."""
    return [t for _, t in instruction.tensors() if isinstance(t, IndirectTensor) and t.vector]


def _bad_batch(instruction: Any, _: Sizes) -> str | None:
    """Several columns of indices: only gathers of whole rows between equal types."""
    src, dst = instruction.src, instruction.dst
    if type(src) is NkiTensor and type(dst) is NkiTensor:
        return None
    for tensor in vectors(instruction):
        index = tensor.index
        if not isinstance(index, IndexColumns):
            continue
        shape = f"{index.tile}"
        if tensor is dst or index.rows != index.tile.size or index.tile.partitions != PARTITIONS:
            return shape
        dense = dst.is_contiguous() and IndirectTensor.is_dense_row(src)
        if src.dtype != dst.dtype or not dense:
            return f"{shape} for {src} to {dst}"
    return None


BATCH = Rule(
    "indices [128, M] gather 128 * M whole rows, without conversion, into a contiguous tensor",
    _bad_batch,
    "use one column of indices per DMA",
    "dma_copy, DMA batching",
)


def _skip_without_index(instruction: Any, _: Sizes) -> str | None:
    indirect = any(isinstance(t, IndirectTensor) for _, t in instruction.tensors())
    if instruction.oob_mode is OobMode.skip and not indirect:
        return "no dynamic offset"
    return None


SKIP_NEEDS_INDEX = Rule(
    "oob_mode.skip is for dynamic offsets",
    _skip_without_index,
    "leave oob_mode out",
    "dma_transpose, dma_compute",
)
