"""Microscaling instructions (trn3)."""

from __future__ import annotations

from ...engines import mx
from ...handles import NkiInstruction
from ...views import NkiTensor
from .._surface import vendor

__all__ = ["nc_matmul_mx", "quantize_mx"]


@vendor
def nc_matmul_mx(
    dst: NkiTensor,
    stationary: NkiTensor,
    moving: NkiTensor,
    stationary_scale: NkiTensor,
    moving_scale: NkiTensor,
    tile_position: tuple[int, int] | None = None,
    tile_size: tuple[int, int] | None = None,
    accumulate: bool | None = None,
    name: str | None = None,
) -> NkiInstruction:
    """Multiply matrices of packed values, each group times its scale."""
    return mx.NcMatmulMx(
        dst,
        stationary,
        moving,
        accumulate=accumulate,
        tile_position=tile_position or (),
        tile_size=tile_size or (),
        stationary_scale=stationary_scale,
        moving_scale=moving_scale,
        name=name,
    ).issue()


@vendor
def quantize_mx(
    dst: NkiTensor, src: NkiTensor, dst_scale: NkiTensor, name: str | None = None
) -> NkiInstruction:
    """Quantise to packed fp8 with a scale per group of 32."""
    return mx.QuantizeMx(dst, src, dst_scale, name=name).issue()
