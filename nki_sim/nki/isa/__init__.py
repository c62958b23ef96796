"""``nki.isa``: the vendor's names and signatures, each handing its arguments to one instruction
class.

Parameters stand in the order of SDK 2.32; those of earlier versions follow as keywords.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...constants import Engine as _Engine
from ...engines import copies, gpsimd, scalar, search, tensor, vector
from ...handles import Dependency as dependency  # noqa: F401
from ...handles import NkiInstruction
from ...machine import platform_from_environment, running
from ...objects import NKIObject as NKIObject
from ...operators import OPS, Op
from ...views import NkiTensor
from .._surface import member as _enum
from .._surface import vendor
from ._compute import *  # noqa: F403
from ._cores import *  # noqa: F403
from ._dma import *  # noqa: F403
from ._gpsimd import *  # noqa: F403
from ._mx import *  # noqa: F403
from ._registers import *  # noqa: F403
from .constants import dge_mode as dge_mode
from .constants import dma_engine as dma_engine
from .constants import engine, matmul_perf_mode, nc_version, reduce_cmd
from .constants import oob_mode as oob_mode

tensor_engine, vector_engine, scalar_engine = engine.tensor, engine.vector, engine.scalar
gpsimd_engine, unknown_engine = engine.gpsimd, engine.unknown

Name = str | None
Pattern = Sequence[Sequence[int]]


class NkiValidationError(Exception):
    """The vendor's validation error; the simulator raises its own."""


def get_nc_version() -> nc_version:
    """The NeuronCore generation of the running (or configured) platform."""
    program = running()
    return (program.platform if program else platform_from_environment()).version


def get_nc_sub_version() -> int:
    """The revision within the NeuronCore generation: 0, the first one, on every platform here."""
    return 0


@vendor
def tensor_copy(
    dst: NkiTensor, src: NkiTensor, engine: _Engine = engine.unknown, name: Name = None
) -> NkiInstruction:
    """Copy on chip."""
    return copies.TensorCopy(dst, src, engine=engine, name=name).issue()


@vendor
def tensor_copy_dynamic_src(
    dst: NkiTensor, src: NkiTensor, engine: _Engine = engine.unknown, name: Name = None
) -> NkiInstruction:
    """Copy on chip from a dynamic offset (SDK 2.27 to 2.29; now `tensor_copy` does)."""
    return copies.TensorCopy(dst, src, engine=engine, name=name).issue()


@vendor
def tensor_copy_dynamic_dst(
    dst: NkiTensor, src: NkiTensor, engine: _Engine = engine.unknown, name: Name = None
) -> NkiInstruction:
    """Copy on chip to a dynamic offset (SDK 2.27 to 2.29; now `tensor_copy` does)."""
    return copies.TensorCopy(dst, src, engine=engine, name=name).issue()


@vendor
def memset(
    dst: NkiTensor, value: float, engine: _Engine = engine.unknown, name: Name = None
) -> NkiInstruction:
    """Fill with a number."""
    return copies.Memset(dst, value, engine=engine, name=name).issue()


@vendor
def tensor_copy_predicated(
    dst: NkiTensor,
    src: NkiTensor | float,
    predicate: NkiTensor,
    reverse_pred: bool = False,
    name: Name = None,
) -> NkiInstruction:
    """Copy where the predicate is non-zero."""
    return copies.TensorCopyPredicated(dst, src, predicate, reverse_pred, name=name).issue()


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
) -> NkiInstruction:
    """Multiply matrices; the ``onezero`` hints change speed only."""
    mode = tensor.perf_mode(perf_mode)
    return tensor.NcMatmul(
        dst, stationary, moving, is_transpose, accumulate, tile_position, tile_size, mode, name=name
    ).issue()


@vendor
def nc_transpose(
    dst: NkiTensor, data: NkiTensor, engine: _Engine = engine.unknown, name: Name = None
) -> NkiInstruction:
    """Transpose a tile."""
    return tensor.NcTranspose(dst, data, engine=engine, name=name).issue()


@vendor
def tensor_tensor(
    dst: NkiTensor,
    data1: NkiTensor,
    data2: NkiTensor,
    op: Op,
    engine: _Engine = engine.unknown,
    name: Name = None,
) -> NkiInstruction:
    """Combine two tiles element by element."""
    return vector.TensorTensor(dst, data1, data2, op, engine=engine, name=name).issue()


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
) -> NkiInstruction:
    """Combine a tile with one or two scalars."""
    return vector.TensorScalar(
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
) -> NkiInstruction:
    """Combine a tile with a scalar, then with a tile."""
    return vector.ScalarTensorTensor(
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
) -> NkiInstruction:
    """Reduce trailing free dimensions."""
    return vector.TensorReduce(dst, op, data, axis, negate, keepdims, name=name).issue()


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
) -> NkiInstruction:
    """Apply a function of the scalar engine's tables."""
    command = _enum(_reduce_cmd, reduce_cmd, "activation")
    return scalar.Activation(
        dst, op, data, bias, scale, reduce_op, reduce_res, command, name=name
    ).issue()


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
) -> NkiInstruction:
    """Apply a function and sum each row."""
    return scalar.ActivationReduce(
        dst, op, data, bias, scale, reduce_op, reduce_res, reduce_cmd.reset_reduce, name=name
    ).issue()


@vendor
def reciprocal(dst: NkiTensor, data: NkiTensor, name: Name = None) -> NkiInstruction:
    """One over each element."""
    return vector.Reciprocal(dst, data, name=name).issue()


@vendor
def iota(
    dst: NkiTensor,
    pattern: Pattern,
    offset: int = 0,
    channel_multiplier: int = 0,
    name: Name = None,
) -> NkiInstruction:
    """Write an affine index pattern."""
    return gpsimd.Iota(dst, pattern, offset, channel_multiplier, name=name).issue()


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
) -> NkiInstruction:
    """Select by an affine index pattern."""
    return gpsimd.AffineSelect(
        dst, pattern, channel_multiplier, on_true_tile, on_false_value, cmp_op, offset, name=name
    ).issue()


@vendor
def nc_stream_shuffle(
    dst: NkiTensor, src: NkiTensor, shuffle_mask: Sequence[int], name: Name = None
) -> NkiInstruction:
    """Move rows within groups of 32 partitions."""
    return search.NcStreamShuffle(dst, src, shuffle_mask, name=name).issue()


@vendor
def max8(dst: NkiTensor, src: NkiTensor, name: Name = None) -> NkiInstruction:
    """The 8 largest elements per partition."""
    return search.Max8(dst, src, name=name).issue()


@vendor
def nc_find_index8(
    dst: NkiTensor, data: NkiTensor, vals: NkiTensor, name: Name = None
) -> NkiInstruction:
    """Positions of 8 values per partition."""
    return search.NcFindIndex8(dst, data, vals, name=name).issue()


@vendor
def nc_match_replace8(
    dst: NkiTensor,
    data: NkiTensor,
    vals: NkiTensor,
    imm: float,
    dst_idx: NkiTensor | None = None,
    name: Name = None,
) -> NkiInstruction:
    """Replace 8 values per partition."""
    return search.NcMatchReplace8(dst, data, vals, imm, dst_idx, name=name).issue()
