"""Selections of the vector engine, by index range or predicate, which can reduce their results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..constants import Engine, NcVersion, ReduceCmd
from ..dtypes import FLOATS, NUMBERS
from ..machine import Program
from ..operators import OPS, Op
from ..views import NkiTensor
from . import accumulators, alu
from .base import READ, WRITE, Instruction, Operand, Rule, Sizes, at_most_one_in_psum

FP32_MIN = float(np.finfo(np.float32).min)
_RANGE_COMPARISONS = tuple(
    OPS[name] for name in ("equal", "less", "less_equal", "greater", "greater_equal")
)
_EXACT_INDEX = 1 << 24


def _fill_value(instruction: Any, _: Sizes) -> str | None:
    value = instruction.on_false_value
    legal = type(value) in (int, float) and float(np.float32(value)) == FP32_MIN
    return None if legal else f"on_false_value={value!r}"


def _range_start(instruction: Any, sizes: Sizes) -> str | None:
    start = instruction.range_start
    legal = type(start) is int or (type(start) is float and start.is_integer())
    if legal and abs(start) + sizes["F"] <= _EXACT_INDEX:
        return None
    return f"range_start={start!r} for {sizes['F']} elements per partition"


@dataclass(slots=True, eq=False)
class RangeSelect(Instruction):
    """dst[p, f] = on_true_tile[p, f] where comp_op0(range_start + f, bound0[p]) and
    comp_op1(range_start + f, bound1[p]), else the smallest fp32; with a running maximum.
    """

    opcode: ClassVar[str] = "range_select"
    engines: ClassVar = (Engine.vector,)
    since: ClassVar[NcVersion] = NcVersion.gen3
    operands: ClassVar = (
        Operand("dst", "PF", WRITE),
        Operand("on_true_tile", "PF", READ, dtypes=FLOATS),
        Operand("bound0", "P1", READ, dtypes=("float32",)),
        Operand("bound1", "P1", READ, dtypes=("float32",)),
        Operand("reduce_res", "P1", WRITE, optional=True),
    )
    rules: ClassVar = (
        Rule(
            "on_false_value is the smallest fp32, -3.4028235e+38",
            _fill_value,
            "pass it, or leave it out",
            "range_select: a hardware constraint",
        ),
        Rule(
            "range_start is a whole number, and indices stay within 2**24",
            _range_start,
            "split the range",
            "range_select: indices are compared in fp32",
        ),
        accumulators.operators("maximum"),
        accumulators.commands(
            ReduceCmd.idle, ReduceCmd.reset, ReduceCmd.reduce, ReduceCmd.reset_reduce
        ),
    )
    numerics: ClassVar[str] = "compares in fp32; maximum of the unrounded values"
    example: ClassVar = {
        "comp_op0": OPS["greater_equal"],
        "comp_op1": OPS["less"],
        "reduce_cmd": ReduceCmd.reset_reduce,
    }

    dst: NkiTensor
    on_true_tile: NkiTensor
    comp_op0: Op
    comp_op1: Op
    bound0: NkiTensor
    bound1: NkiTensor
    reduce_cmd: ReduceCmd = ReduceCmd.reset_reduce
    reduce_res: NkiTensor | None = None
    reduce_op: Op = OPS["maximum"]
    range_start: float = 0
    on_false_value: float = FP32_MIN

    def check(self) -> Sizes:
        alu.require_op(self.opcode, "comp_op0", self.comp_op0, _RANGE_COMPARISONS)
        alu.require_op(self.opcode, "comp_op1", self.comp_op1, _RANGE_COMPARISONS)
        return Instruction.check(self)

    def execute(self, program: Program) -> None:
        values = self.on_true_tile.rows32()
        index = np.arange(values.shape[1], dtype=np.float32) + np.float32(self.range_start)
        chosen = alu.apply(self.comp_op0, index, self.bound0.rows32(), False)
        chosen = chosen & alu.apply(self.comp_op1, index, self.bound1.rows32(), False)
        selected = np.where(chosen, values, np.float32(FP32_MIN))
        alu.write(self.dst, selected)
        accumulators.reduce(program, self, self.on_true_tile, selected)


_SELECTABLE = tuple(name for name in NUMBERS if name not in ("int32", "uint32", "tfloat32"))
_PREDICATES = ("uint8", "int8", "uint16", "int16", "bool")


@dataclass(slots=True, eq=False)
class SelectReduce(Instruction):
    """dst = on_true where the predicate is non-zero (zero when reversed), else on_false; with a
    running maximum.
    """

    opcode: ClassVar[str] = "select_reduce"
    engines: ClassVar = (Engine.vector,)
    operands: ClassVar = (
        Operand("dst", "PF", WRITE),
        Operand("predicate", "PF", READ, dtypes=_PREDICATES),
        Operand("on_true", "PF", READ, dtypes=_SELECTABLE),
        Operand("on_false", "P1", READ, dtypes=_SELECTABLE, scalar=True),
        Operand("reduce_res", "P1", WRITE, dtypes=FLOATS, optional=True),
    )
    rules: ClassVar = (
        at_most_one_in_psum("on_true", "predicate"),
        accumulators.operators("maximum"),
        accumulators.commands(ReduceCmd.idle, ReduceCmd.reduce, ReduceCmd.reset_reduce),
    )
    numerics: ClassVar[str] = "through fp32, one rounding on write; maximum of the unrounded values"
    example: ClassVar = {"reduce_cmd": ReduceCmd.reset_reduce}

    dst: NkiTensor
    predicate: NkiTensor
    on_true: NkiTensor
    on_false: NkiTensor | float
    reduce_res: NkiTensor | None = None
    reduce_cmd: ReduceCmd = ReduceCmd.idle
    reduce_op: Op = OPS["maximum"]
    reverse_pred: bool = False

    def execute(self, program: Program) -> None:
        chosen = (self.predicate.rows() != 0) ^ bool(self.reverse_pred)
        other = np.float32(1) * alu.operand32(self.on_false)
        selected = np.where(chosen, self.on_true.rows32(), other)
        alu.write(self.dst, selected)
        accumulators.reduce(program, self, self.on_true, selected)
