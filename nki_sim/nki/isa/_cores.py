"""``nki.isa``: exchange between the two cores of a launch."""

from __future__ import annotations

from collections.abc import Sequence

from ...constants import DmaEngine as _DmaEngine
from ...constants import Engine as _Engine
from ...engines import rendezvous
from ...errors import IllegalProgram
from ...handles import NkiInstruction
from ...views import NkiTensor
from .._surface import member, vendor
from .constants import dma_engine, engine

__all__ = ["core_barrier", "sendrecv"]


@vendor
def sendrecv(
    src: NkiTensor,
    dst: NkiTensor,
    send_to_rank: int,
    recv_from_rank: int,
    pipe_id: int,
    dma_engine: _DmaEngine = dma_engine.dma,
    name: str | None = None,
    *,
    use_gpsimd_dma: bool | None = None,
) -> NkiInstruction:
    """Exchange SBUF tiles with the other core (`use_gpsimd_dma`: the spelling until SDK 2.28)."""
    carrier = member(_DmaEngine, dma_engine, "sendrecv")
    if use_gpsimd_dma is not None:
        if type(use_gpsimd_dma) is not bool:
            raise IllegalProgram("sendrecv", "use_gpsimd_dma is a bool", repr(use_gpsimd_dma))
        carrier = _DmaEngine.gpsimd_dma if use_gpsimd_dma else carrier
    return rendezvous.SendRecv(
        src, dst, send_to_rank, recv_from_rank, pipe_id, carrier, name=name
    ).issue()


@vendor
def core_barrier(
    data: NkiTensor,
    cores: Sequence[int],
    engine: _Engine = engine.gpsimd,
    name: str | None = None,
) -> NkiInstruction:
    """Wait for the other core, after writing to and before reading from `data`."""
    barrier = rendezvous.CoreBarrier(data, cores, engine=engine, name=name)
    return barrier.issue()
