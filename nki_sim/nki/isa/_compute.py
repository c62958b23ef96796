"""``nki.isa``: reductions, scans, selections and statistics of the vector engine; activate2."""

from __future__ import annotations

from ...constants import ReduceCmd
from ...engines import reductions, scalar, scans, selection, statistics
from ...handles import NkiInstruction
from ...operators import OPS, Op
from ...views import NkiTensor
from .._surface import member, vendor

__all__ = [
    "activate2",
    "bn_aggr",
    "bn_stats",
    "exponential",
    "range_select",
    "select_reduce",
    "tensor_partition_reduce",
    "tensor_scalar_cumulative",
    "tensor_scalar_reduce",
    "tensor_tensor_scan",
]

Name = str | None


@vendor
def range_select(
    dst: NkiTensor,
    on_true_tile: NkiTensor,
    comp_op0: Op,
    comp_op1: Op,
    bound0: NkiTensor,
    bound1: NkiTensor,
    reduce_cmd: ReduceCmd = ReduceCmd.reset_reduce,
    reduce_res: NkiTensor | None = None,
    reduce_op: Op = OPS["maximum"],
    range_start: float = 0,
    on_false_value: float = selection.FP32_MIN,
    name: Name = None,
) -> NkiInstruction:
    """Keep elements whose index lies within bounds; SDK 2.27 had reduce_cmd.idle by default."""
    command = member(ReduceCmd, reduce_cmd, "range_select")
    return selection.RangeSelect(
        dst, on_true_tile, comp_op0, comp_op1, bound0, bound1, command, reduce_res, reduce_op,
        range_start, on_false_value, name=name,
    ).issue()  # fmt: skip


@vendor
def select_reduce(
    dst: NkiTensor,
    predicate: NkiTensor,
    on_true: NkiTensor,
    on_false: NkiTensor | float,
    reduce_res: NkiTensor | None = None,
    reduce_cmd: ReduceCmd = ReduceCmd.idle,
    reduce_op: Op = OPS["maximum"],
    reverse_pred: bool = False,
    name: Name = None,
) -> NkiInstruction:
    """Select by a predicate."""
    command = member(ReduceCmd, reduce_cmd, "select_reduce")
    return selection.SelectReduce(
        dst, predicate, on_true, on_false, reduce_res, command, reduce_op, reverse_pred, name=name
    ).issue()


@vendor
def tensor_scalar_reduce(
    dst: NkiTensor,
    data: NkiTensor,
    op0: Op,
    operand0: NkiTensor | float | None,
    reduce_op: Op,
    reduce_res: NkiTensor | None = None,
    reverse0: bool = False,
    reduce_cmd: ReduceCmd = ReduceCmd.reset_reduce,
    reduce_init: NkiTensor | float | None = None,
    reduce_res_negate: bool = False,
    name: Name = None,
) -> NkiInstruction:
    """Combine a tile with a scalar and reduce each row."""
    command = member(ReduceCmd, reduce_cmd, "tensor_scalar_reduce")
    return reductions.TensorScalarReduce(
        dst, data, op0, operand0, reduce_op, reduce_res, reverse0, command, reduce_init,
        reduce_res_negate, name=name,
    ).issue()  # fmt: skip


@vendor
def tensor_scalar_cumulative(
    dst: NkiTensor,
    src: NkiTensor,
    op0: Op,
    op1: Op,
    imm0: NkiTensor | float,
    imm1: NkiTensor | float | None = None,
    reduce_cmd: ReduceCmd = ReduceCmd.reset_reduce,
    name: Name = None,
) -> NkiInstruction:
    """Combine a tile with a scalar and accumulate along each row."""
    command = member(ReduceCmd, reduce_cmd, "tensor_scalar_cumulative")
    return scans.TensorScalarCumulative(dst, src, op0, op1, imm0, imm1, command, name=name).issue()


@vendor
def tensor_tensor_scan(
    dst: NkiTensor,
    data0: NkiTensor,
    data1: NkiTensor,
    initial: NkiTensor | float,
    op0: Op,
    op1: Op,
    reverse0: bool = False,
    reverse1: bool = False,
    name: Name = None,
) -> NkiInstruction:
    """Scan two tiles along each row."""
    return scans.TensorTensorScan(
        dst, data0, data1, initial, op0, op1, reverse0, reverse1, name=name
    ).issue()


@vendor
def tensor_partition_reduce(
    dst: NkiTensor, op: Op, data: NkiTensor, name: Name = None
) -> NkiInstruction:
    """Reduce over partitions."""
    return reductions.TensorPartitionReduce(dst, op, data, name=name).issue()


@vendor
def bn_stats(dst: NkiTensor, data: NkiTensor, name: Name = None) -> NkiInstruction:
    """Statistics of each row, to be aggregated by `bn_aggr`."""
    return statistics.BnStats(dst, data, name=name).issue()


@vendor
def bn_aggr(dst: NkiTensor, data: NkiTensor, name: Name = None) -> NkiInstruction:
    """Mean and variance from results of `bn_stats`."""
    return statistics.BnAggr(dst, data, name=name).issue()


@vendor
def exponential(
    dst: NkiTensor,
    src: NkiTensor,
    max_value: NkiTensor | float = 0.0,
    reduce_res: NkiTensor | None = None,
    reduce_cmd: ReduceCmd = ReduceCmd.idle,
    reduce_init: NkiTensor | float = 0.0,
    name: Name = None,
) -> NkiInstruction:
    """Exponential on the vector engine (trn3)."""
    command = member(ReduceCmd, reduce_cmd, "exponential")
    return reductions.Exponential(
        dst, src, max_value, reduce_res, command, reduce_init, name=name
    ).issue()


@vendor
def activate2(
    dst: NkiTensor,
    op: Op,
    data: NkiTensor,
    imm0: NkiTensor | float,
    imm1: NkiTensor | float,
    op0: Op,
    op1: Op,
    relu_param: NkiTensor | float = 0.0,
    reverse0: bool = False,
    reverse1: bool = False,
    reduce_op: Op | None = None,
    reduce_res: NkiTensor | None = None,
    reduce_cmd: ReduceCmd = ReduceCmd.idle,
    name: Name = None,
) -> NkiInstruction:
    """Two arithmetic stages, then an activation function (trn3)."""
    command = member(ReduceCmd, reduce_cmd, "activate2")
    return scalar.Activate2(
        dst, op, data, imm0, imm1, op0, op1, relu_param, reverse0, reverse1, reduce_op, reduce_res,
        command, name=name,
    ).issue()  # fmt: skip
