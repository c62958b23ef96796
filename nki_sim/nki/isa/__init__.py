"""``nki.isa``: the vendor's names and signatures, each handing its arguments to one instruction
class.

Parameters stand in the order of SDK 2.32; those of earlier versions follow as keywords.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from ...constants import Engine as _Engine
from ...engines import copies, dma, gpsimd, scalar, search, tensor, vector
from ...errors import IllegalProgram, NotModelled
from ...machine import platform_from_environment, running
from ...objects import NKIObject as NKIObject
from ...operators import OPS, Op
from ...views import NkiTensor
from .._surface import not_modelled, vendor
from .constants import (
    dge_mode,
    engine,
    matmul_perf_mode,
    nc_version,
    oob_mode,
    reduce_cmd,
)
from .constants import (
    dma_engine as dma_engine,
)

tensor_engine, vector_engine, scalar_engine = engine.tensor, engine.vector, engine.scalar
gpsimd_engine, unknown_engine = engine.gpsimd, engine.unknown

Name = str | None
Pattern = Sequence[Sequence[int]]

NOT_MODELLED = (
    "activate2", "bn_aggr", "bn_stats", "core_barrier", "dma_compute", "dma_transpose", "dropout",
    "exponential", "get_nc_sub_version", "local_gather", "nc_matmul_mx", "nc_n_gather",
    "nonzero_with_count", "quantize_mx", "rand2", "rand_get_state", "rand_set_state",
    "range_select", "register_alloc", "register_load", "register_move", "register_store", "rng",
    "select_reduce", "sendrecv", "sequence_bounds", "set_rng_seed", "tensor_copy_dynamic_dst",
    "tensor_copy_dynamic_src", "tensor_partition_reduce", "tensor_scalar_cumulative",
    "tensor_scalar_reduce", "tensor_tensor_scan", "topk",
)  # fmt: skip
"""Functions of SDK 2.27 to 2.32 that raise NotModelled."""

for _name in NOT_MODELLED:
    globals()[_name] = not_modelled("nki.isa", _name)


VirtualRegister = not_modelled("nki.isa", "VirtualRegister")
NkiInstruction = not_modelled("nki.isa", "NkiInstruction")


class NkiValidationError(Exception):
    """The vendor's validation error; the simulator raises its own."""


def get_nc_version() -> nc_version:
    """The NeuronCore generation of the running (or configured) platform."""
    program = running()
    return (program.platform if program else platform_from_environment()).version


def _enum(kind: Any, value: Any, operation: str) -> Any:
    """A member of an enumeration; integers, which SDK 2.28 accepted, with a warning."""
    if isinstance(value, kind):
        return value
    if type(value) is int and value in {member.value for member in kind}:
        warnings.warn(
            f"{operation}: integer {value} for {kind(value)!r} is refused from SDK 2.29 on",
            stacklevel=4,
        )
        return kind(value)
    raise IllegalProgram(operation, f"takes one of {', '.join(map(repr, kind))}", repr(value))


@vendor
def dma_copy(
    dst: NkiTensor,
    src: NkiTensor,
    priority: int | None = None,
    oob_mode: oob_mode = oob_mode.error,
    dge_mode: dge_mode = dge_mode.unknown,
    engine: _Engine = engine.unknown,
    name: Name = None,
    *,
    dst_rmw_op: Op | None = None,
    unique_indices: bool = True,
) -> None:
    """Copy between HBM and SBUF; `priority` and `engine` (the queue) do not change the result."""
    if dst_rmw_op is not None or unique_indices is not True:
        raise NotModelled(
            "dma_copy",
            "dst_rmw_op and unique_indices=False are not modelled",
            "",
            "use dma_compute",
        )
    oob, dge = _enum(_oob_mode, oob_mode, "dma_copy"), _enum(_dge_mode, dge_mode, "dma_copy")
    dma.DmaCopy(dst, src, oob, dge, name=name).issue()


_oob_mode, _dge_mode = oob_mode, dge_mode


@vendor
def tensor_copy(
    dst: NkiTensor, src: NkiTensor, engine: _Engine = engine.unknown, name: Name = None
) -> None:
    """Copy on chip."""
    copies.TensorCopy(dst, src, engine=engine, name=name).issue()


@vendor
def memset(
    dst: NkiTensor, value: float, engine: _Engine = engine.unknown, name: Name = None
) -> None:
    """Fill with a number."""
    copies.Memset(dst, value, engine=engine, name=name).issue()


@vendor
def tensor_copy_predicated(
    dst: NkiTensor,
    src: NkiTensor | float,
    predicate: NkiTensor,
    reverse_pred: bool = False,
    name: Name = None,
) -> None:
    """Copy where the predicate is non-zero."""
    copies.TensorCopyPredicated(dst, src, predicate, reverse_pred, name=name).issue()


@vendor
def nc_matmul(
    dst: NkiTensor,
    stationary: NkiTensor,
    moving: NkiTensor,
    is_stationary_onezero: bool = False,
    is_moving_onezero: bool = False,
    is_transpose: bool = False,
    accumulate: bool | None = None,
    tile_position: tuple[int, ...] = (),
    tile_size: tuple[int, ...] = (),
    perf_mode: matmul_perf_mode = matmul_perf_mode.none,
    name: Name = None,
    *,
    is_moving_zero: bool = False,
) -> None:
    """Multiply matrices; the ``onezero`` hints change speed only."""
    tensor.perf_mode(perf_mode)
    tensor.NcMatmul(
        dst, stationary, moving, is_transpose, accumulate, tile_position, tile_size, name=name
    ).issue()


@vendor
def nc_transpose(
    dst: NkiTensor, data: NkiTensor, engine: _Engine = engine.unknown, name: Name = None
) -> None:
    """Transpose a tile."""
    tensor.NcTranspose(dst, data, engine=engine, name=name).issue()


@vendor
def tensor_tensor(
    dst: NkiTensor,
    data1: NkiTensor,
    data2: NkiTensor,
    op: Op,
    engine: _Engine = engine.unknown,
    name: Name = None,
) -> None:
    """Combine two tiles element by element."""
    vector.TensorTensor(dst, data1, data2, op, engine=engine, name=name).issue()


@vendor
def tensor_scalar(
    dst: NkiTensor,
    data: NkiTensor,
    op0: Op,
    operand0: NkiTensor | float | None,
    reverse0: bool = False,
    op1: Op | None = None,
    operand1: NkiTensor | float | None = None,
    reverse1: bool = False,
    engine: _Engine = engine.unknown,
    name: Name = None,
) -> None:
    """Combine a tile with one or two scalars."""
    vector.TensorScalar(
        dst, data, op0, operand0, reverse0, op1, operand1, reverse1, engine=engine, name=name
    ).issue()


@vendor
def scalar_tensor_tensor(
    dst: NkiTensor,
    data: NkiTensor,
    op0: Op,
    operand0: NkiTensor | float,
    op1: Op,
    operand1: NkiTensor,
    reverse0: bool = False,
    reverse1: bool = False,
    name: Name = None,
) -> None:
    """Combine a tile with a scalar, then with a tile."""
    vector.ScalarTensorTensor(
        dst, data, op0, operand0, op1, operand1, reverse0, reverse1, name=name
    ).issue()


@vendor
def tensor_reduce(
    dst: NkiTensor,
    op: Op,
    data: NkiTensor,
    axis: int | Sequence[int],
    negate: bool = False,
    keepdims: bool = False,
    name: Name = None,
) -> None:
    """Reduce trailing free dimensions."""
    vector.TensorReduce(dst, op, data, axis, negate, keepdims, name=name).issue()


@vendor
def activation(
    dst: NkiTensor,
    op: Op,
    data: NkiTensor,
    bias: NkiTensor | float | None = None,
    scale: NkiTensor | float = 1.0,
    reduce_op: Op | None = None,
    reduce_res: NkiTensor | None = None,
    reduce_cmd: reduce_cmd = reduce_cmd.idle,
    name: Name = None,
) -> None:
    """Apply a function of the scalar engine's tables."""
    command = _enum(_reduce_cmd, reduce_cmd, "activation")
    scalar.Activation(dst, op, data, bias, scale, reduce_op, reduce_res, command, name=name).issue()


_reduce_cmd = reduce_cmd


@vendor
def activation_reduce(
    dst: NkiTensor,
    op: Op,
    data: NkiTensor,
    reduce_op: Op,
    reduce_res: NkiTensor,
    bias: NkiTensor | float | None = None,
    scale: NkiTensor | float = 1.0,
    name: Name = None,
) -> None:
    """Apply a function and sum each row."""
    scalar.ActivationReduce(
        dst, op, data, bias, scale, reduce_op, reduce_res, reduce_cmd.reset_reduce, name=name
    ).issue()


@vendor
def reciprocal(dst: NkiTensor, data: NkiTensor, name: Name = None) -> None:
    """One over each element."""
    vector.Reciprocal(dst, data, name=name).issue()


@vendor
def iota(
    dst: NkiTensor,
    pattern: Pattern,
    offset: int = 0,
    channel_multiplier: int = 0,
    name: Name = None,
) -> None:
    """Write an affine index pattern."""
    gpsimd.Iota(dst, pattern, offset, channel_multiplier, name=name).issue()


@vendor
def affine_select(
    dst: NkiTensor,
    pattern: Pattern,
    channel_multiplier: int,
    on_true_tile: NkiTensor,
    on_false_value: float,
    cmp_op: Op = OPS["equal"],
    offset: int = 0,
    name: Name = None,
) -> None:
    """Select by an affine index pattern."""
    gpsimd.AffineSelect(
        dst, pattern, channel_multiplier, on_true_tile, on_false_value, cmp_op, offset, name=name
    ).issue()


@vendor
def nc_stream_shuffle(
    dst: NkiTensor, src: NkiTensor, shuffle_mask: Sequence[int], name: Name = None
) -> None:
    """Move rows within groups of 32 partitions."""
    search.NcStreamShuffle(dst, src, shuffle_mask, name=name).issue()


@vendor
def max8(dst: NkiTensor, src: NkiTensor, name: Name = None) -> None:
    """The 8 largest elements per partition."""
    search.Max8(dst, src, name=name).issue()


@vendor
def nc_find_index8(dst: NkiTensor, data: NkiTensor, vals: NkiTensor, name: Name = None) -> None:
    """Positions of 8 values per partition."""
    search.NcFindIndex8(dst, data, vals, name=name).issue()


@vendor
def nc_match_replace8(
    dst: NkiTensor,
    data: NkiTensor,
    vals: NkiTensor,
    imm: float,
    dst_idx: NkiTensor | None = None,
    name: Name = None,
) -> None:
    """Replace 8 values per partition."""
    search.NcMatchReplace8(dst, data, vals, imm, dst_idx, name=name).issue()
