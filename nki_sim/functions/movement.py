"""``nl.load``, ``nl.matmul``, ``nl.transpose``, ...: functions that move, reshape or multiply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..constants import HBM, PSUM, SBUF
from ..engines import copies, dma, gathers, search, tensor
from ..errors import IllegalProgram, NotModelled
from ..nki._surface import vendor
from ..views import NkiTensor
from .common import FLOAT32, as_rows, fresh, result_type, tile
from .elementwise import copied


def _hbm(operation: str, role: str, value: object) -> NkiTensor:
    if not isinstance(value, NkiTensor) or value.buffer not in HBM:
        raise IllegalProgram(
            f"nl.{operation}",
            f"{role} is a tensor in HBM",
            str(value) if isinstance(value, NkiTensor) else repr(value),
        )
    return value


@vendor
def load(src: NkiTensor, dtype: str | None = None) -> NkiTensor:
    """A new SBUF tile with the elements of an HBM tensor, whose dimension 0 is the partition."""
    src = _hbm("load", "src", src)
    made = fresh(src.shape, result_type("load", dtype, src.dtype))
    dma.DmaCopy(made, src).issue()
    return made


@vendor
def store(dst: NkiTensor, value: NkiTensor) -> None:
    """Write an SBUF tile to an HBM tensor."""
    dma.DmaCopy(_hbm("store", "dst", dst), tile("store", "value", value)).issue()


@vendor
def load_transpose2d(src: NkiTensor, dtype: str | None = None) -> NkiTensor:
    """A new SBUF tile [columns, rows] with the transpose of an HBM matrix."""
    src = _hbm("load_transpose2d", "src", src)
    if src.ndim != 2:
        raise IllegalProgram("nl.load_transpose2d", "src is a matrix", str(src))
    made = fresh(src.shape[::-1], result_type("load_transpose2d", dtype, src.dtype))
    dma.DmaCopy(made, src.permute((1, 0))).issue()
    return made


@vendor
def transpose(x: NkiTensor, dtype: str | None = None) -> NkiTensor:
    """The transpose of a 2-D tile, in PSUM; in SBUF when another type is asked for."""
    x = tile("transpose", "x", x)
    kind = result_type("transpose", dtype, x.dtype)
    data = as_rows(x)
    data = copied(data, data.dtype) if data.buffer is PSUM else data
    made = fresh((data.free, data.partitions), data.dtype, PSUM)
    tensor.NcTranspose(made, data).issue()
    return made if kind == x.dtype else copied(made, kind)


@vendor
def matmul(x: NkiTensor, y: NkiTensor, transpose_x: bool = False) -> NkiTensor:
    """x @ y, or x.T @ y with `transpose_x`, as a float32 PSUM tile."""
    x, y = as_rows(tile("matmul", "x", x)), as_rows(tile("matmul", "y", y))
    if not transpose_x:
        flipped = fresh((x.free, x.partitions), x.dtype, PSUM)
        tensor.NcTranspose(flipped, x).issue()
        x = copied(flipped, x.dtype)
    made = fresh((x.free, y.free), FLOAT32, PSUM)
    tensor.NcMatmul(made, x, y).issue()
    return made


@vendor
def gather_flattened(
    data: NkiTensor, indices: NkiTensor, axis: int = 0, dtype: str | None = None
) -> NkiTensor:
    """Per partition, the elements of `data` at `indices` into its flattened free dimensions."""
    data, indices = (
        tile("gather_flattened", "data", data),
        tile("gather_flattened", "indices", indices),
    )
    if axis != 0:
        raise NotModelled("nl.gather_flattened", "axes other than 0 are not modelled", repr(axis))
    kind = result_type("gather_flattened", dtype, data.dtype)
    made = fresh(indices.shape, data.dtype)
    gathers.NcNGather(made, data, indices).issue()
    return made if kind == data.dtype else copied(made, kind)


@vendor
def expand_dims(x: NkiTensor, axis: int | Sequence[int]) -> NkiTensor:
    """A view with dimensions of size 1 inserted at `axis` of the result."""
    x = tile("expand_dims", "x", x)
    axes: list[Any] = list(axis) if isinstance(axis, list | tuple) else [axis]
    rank = x.ndim + len(axes)
    if any(type(a) is not int or not -rank <= a < rank for a in axes):
        raise IllegalProgram("nl.expand_dims", f"axis lies in the {rank} dimensions", repr(axis))
    for place in sorted(a % rank for a in axes):
        x = x.expand_dim(place)
    return x


@vendor
def broadcast_to(x: NkiTensor, shape: Sequence[int], dtype: str | None = None) -> NkiTensor:
    """A tile of `shape` in which dimensions of size 1 are repeated; `x` itself if it has it."""
    x = tile("broadcast_to", "x", x)
    wanted = tuple(shape) if isinstance(shape, list | tuple) else ()
    fits = len(wanted) == x.ndim and all(
        type(w) is int and w > 0 and size in (w, 1) for size, w in zip(x.shape, wanted, strict=True)
    )
    if not fits:
        raise IllegalProgram(
            "nl.broadcast_to",
            "the shape has the same rank and differs only where the tile has size 1",
            f"{shape!r} from {x}",
            "insert dimensions with nl.expand_dims",
        )
    kind = result_type("broadcast_to", dtype, x.dtype)
    if wanted == x.shape:
        return x if kind == x.dtype else copied(x, kind)
    view = x
    for dim in range(1, x.ndim):
        if wanted[dim] != x.shape[dim]:
            view = view.broadcast(dim, wanted[dim])
    made = fresh((x.partitions, *wanted[1:]), kind)
    copies.TensorCopy(made, view).issue()
    return made if wanted[0] == x.partitions else _over_partitions(made, wanted[0])


def _over_partitions(row: NkiTensor, partitions: int) -> NkiTensor:
    """One row on many partitions, 32 at a time."""
    made = fresh((partitions, *row.shape[1:]), row.dtype, SBUF)
    for first in range(0, partitions, 32):
        part = made[first : min(first + 32, partitions)]
        search.NcStreamShuffle(part, row, _mask(part.partitions)).issue()
    return made


def _mask(rows: int) -> list[int]:
    """Row 0 for the first `rows` of a quadrant, the others as they are."""
    return [0] * rows + [255] * (32 - rows)
