"""Enumerations shared by the vendor's surface, the memories and the engines."""

from __future__ import annotations

from enum import Enum
from functools import total_ordering


class _Named(Enum):
    """An enumeration that prints as the vendor writes it and hashes by identity, which is fast."""

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    __str__ = __repr__


class MemoryRegion(_Named):
    """Where a tensor lives."""

    sbuf = "sbuf"
    psum = "psum"
    private_hbm = "private_hbm"
    shared_hbm = "shared_hbm"


SBUF, PSUM = MemoryRegion.sbuf, MemoryRegion.psum
PRIVATE_HBM, SHARED_HBM = MemoryRegion.private_hbm, MemoryRegion.shared_hbm
ON_CHIP = (SBUF, PSUM)
HBM = (PRIVATE_HBM, SHARED_HBM)


class Engine(_Named):
    """The five engines of a core, the sync engine, and the compiler's free choice."""

    tensor = "tensor"
    vector = "vector"
    scalar = "scalar"
    gpsimd = "gpsimd"
    dma = "dma"
    sync = "sync"
    unknown = "unknown"


class DgeMode(_Named):
    """Who makes a DMA's descriptors."""

    unknown = 0
    swdge = 1
    hwdge = 2
    none = 3


class OobMode(_Named):
    """What a DMA does with an out-of-range index."""

    error = 0
    skip = 1


class ReduceCmd(_Named):
    """What an accumulating instruction does with its engine's accumulator registers."""

    idle = 0
    reset = 1
    reduce = 2
    reset_reduce = 3
    load_reduce = 4


class MatmulPerfMode(_Named):
    """Matrix-multiply performance modes."""

    none = "none"
    double_row = "double_row"


class DmaEngine(_Named):
    """Which DMA carries a sendrecv."""

    dma = "dma"
    gpsimd_dma = "gpsimd_dma"


@total_ordering
class NcVersion(_Named):
    """NeuronCore generations, ordered (published kernels compare them with ``>=``)."""

    gen2 = 2
    gen3 = 3
    gen4 = 4

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, NcVersion):
            return NotImplemented
        return bool(self.value < other.value)
