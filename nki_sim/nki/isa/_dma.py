"""``nki.isa``: DMA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...constants import DgeMode, OobMode
from ...constants import Engine as _Engine
from ...engines import dma
from ...engines import dma_compute as sums
from ...engines import dma_transpose as transposes
from ...errors import IllegalProgram
from ...handles import NkiInstruction
from ...operators import Op
from ...views import NkiTensor
from .._surface import member, vendor
from .constants import dge_mode, engine, oob_mode

__all__ = ["dma_compute", "dma_copy", "dma_transpose"]
Name = str | None


@vendor
def dma_copy(
    dst: NkiTensor,
    src: NkiTensor,
    priority: int | None = None,
    oob_mode: OobMode = oob_mode.error,
    dge_mode: DgeMode = dge_mode.unknown,
    engine: _Engine = engine.unknown,
    name: Name = None,
    *,
    dst_rmw_op: Op | None = None,
    unique_indices: bool = True,
) -> NkiInstruction:
    """Copy between HBM and SBUF; with `dst_rmw_op` (until SDK 2.28) add to what is there."""
    oob, dge = member(OobMode, oob_mode, "dma_copy"), member(DgeMode, dge_mode, "dma_copy")
    if dst_rmw_op is not None:
        return sums.DmaCompute(
            dst, [dst, src], dst_rmw_op, None, unique_indices, oob, legacy=True, name=name
        ).issue()
    if type(unique_indices) is not bool:
        raise IllegalProgram("dma_copy", "unique_indices is a bool", repr(unique_indices))
    return dma.DmaCopy(dst, src, oob, dge, engine, priority, name=name).issue()


@vendor
def dma_transpose(
    dst: NkiTensor,
    src: NkiTensor,
    axes: Sequence[int] | None = None,
    priority: int | None = None,
    dge_mode: DgeMode = dge_mode.unknown,
    oob_mode: OobMode = oob_mode.error,
    name: Name = None,
) -> NkiInstruction:
    """Transpose into SBUF; with a vector_offset on `src`, the rows that it selects."""
    oob = member(OobMode, oob_mode, "dma_transpose")
    dge = member(DgeMode, dge_mode, "dma_transpose")
    permutation: Any = axes
    return transposes.DmaTranspose(dst, src, permutation, dge, oob, priority, name=name).issue()


@vendor
def dma_compute(
    dst: NkiTensor,
    srcs: Sequence[NkiTensor],
    reduce_op: Op | Sequence[float],
    scales: Sequence[float] | Op | None = None,
    unique_indices: bool = True,
    oob_mode: OobMode = oob_mode.error,
    name: Name = None,
) -> NkiInstruction:
    """Sum tensors, or add gathered or scattered rows (until 2.28 `scales` stood before
    `reduce_op`: both orders are taken).
    """
    operator: Any = reduce_op
    factors: Any = scales
    if isinstance(scales, Op) and not isinstance(reduce_op, Op):
        operator, factors = scales, reduce_op
    oob = member(OobMode, oob_mode, "dma_compute")
    return sums.DmaCompute(dst, srcs, operator, factors, unique_indices, oob, name=name).issue()
