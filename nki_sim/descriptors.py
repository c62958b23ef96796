"""How well a DMA uses its bandwidth: the contiguous runs that its descriptors move."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from .constants import ON_CHIP
from .schedule import call_site

if TYPE_CHECKING:
    from .engines.base import Instruction
    from .views import NkiTensor

EFFICIENT_BYTES = 512
"""Runs from here on use a DMA engine's bandwidth (docs: DMA best practices)."""

_COVERED = ("dma_copy", "dma_compute")


def short_descriptors(instruction: Instruction) -> str | None:
    """What is wrong with a DMA whose contiguous runs are under 512 bytes; None when nothing is.

    A run is contiguous on both sides. A transfer that fits into one run cannot be better.
    """
    if instruction.opcode not in _COVERED:
        return None
    worst: tuple[int, NkiTensor] | None = None
    for _, tensor in instruction.tensors():
        run = run_bytes(tensor)
        if run < min(EFFICIENT_BYTES, tensor.nbytes) and (worst is None or run < worst[0]):
            worst = run, tensor
    if worst is None:
        return None
    run, tensor = worst
    return (
        f"{instruction.opcode} ({call_site()}): {tensor.nbytes // run} runs of {run} bytes in "
        f"{tensor}; DMAs reach their bandwidth from {EFFICIENT_BYTES} contiguous bytes on"
    )


def run_bytes(tensor: NkiTensor) -> int:
    """Bytes of the contiguous runs of a window; on chip none is longer than a partition's part."""
    return _run(tensor.shape, tensor.strides, tensor.buffer in ON_CHIP) * tensor.itemsize


@lru_cache(maxsize=4096)
def _run(shape: tuple[int, ...], strides: tuple[int, ...], on_chip: bool) -> int:
    run = 1
    first = 1 if on_chip else 0
    for size, stride in zip(reversed(shape[first:]), reversed(strides[first:]), strict=True):
        if size > 1 and stride != run:
            break
        run *= size
    return run
