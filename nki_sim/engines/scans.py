"""Scans along the free dimension on the vector engine: each element takes in the one before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..constants import Engine, NcVersion, ReduceCmd
from ..dtypes import NUMBERS, Array
from ..machine import Program
from ..operators import OPS, Op
from ..views import NkiTensor
from . import accumulators, alu
from .base import READ, WRITE, Instruction, Operand, Rule, Sizes, at_most_one_in_psum
from .costs import Costs
from .reductions import ARITHMETIC

_BINARY = tuple(
    op
    for op in ARITHMETIC
    if op.arity == 2 and op.alu_since is NcVersion.gen2 and not alu.needs_gpsimd(op)
)


@dataclass(slots=True, eq=False)
class TensorTensorScan(Instruction):
    """state = op1(op0(data0[f], state), data1[f]); dst[f] = state, from state = initial."""

    opcode: ClassVar[str] = "tensor_tensor_scan"
    engines: ClassVar = (Engine.vector,)
    operands: ClassVar = (
        Operand("dst", "PF", WRITE),
        Operand("data0", "PF", READ),
        Operand("data1", "PF", READ),
        Operand("initial", "P1", READ, scalar=True),
    )
    rules: ClassVar = (at_most_one_in_psum("data0", "data1"),)
    numerics: ClassVar[str] = "fp32 state, one rounding on each write"
    cost: ClassVar[Costs] = Costs("2 * N")
    example: ClassVar = {"op0": OPS["multiply"], "op1": OPS["add"]}

    dst: NkiTensor
    data0: NkiTensor
    data1: NkiTensor
    initial: NkiTensor | float
    op0: Op
    op1: Op
    reverse0: bool = False
    reverse1: bool = False

    def check(self) -> Sizes:
        alu.require_op(self.opcode, "op0", self.op0, _BINARY)
        alu.require_op(self.opcode, "op1", self.op1, _BINARY)
        return Instruction.check(self)

    def execute(self, program: Program) -> None:
        left, right = self.data0.rows32(), self.data1.rows32()
        state = _column(self.initial, len(left))
        if self.op0 is OPS["multiply"] and self.op1 is OPS["add"] and bool((left == 1).all()):
            result = _accumulate(OPS["add"], state, right)
        else:
            result = self._step_by_step(left, right, state[:, 0])
        alu.write(self.dst, result)

    def _step_by_step(self, left: Array, right: Array, state: Array) -> Array:
        by_step = np.ascontiguousarray(left.T), np.ascontiguousarray(right.T)
        result = np.empty_like(by_step[0])
        for step, (first, second) in enumerate(zip(*by_step, strict=True)):
            state = alu.chain(self.op0, first, state, self.reverse0)
            state = alu.chain(self.op1, state, second, self.reverse1)
            result[step] = state
        return result.T


def _column(value: NkiTensor | float | None, rows: int) -> Array:
    """An operand as fp32 [rows, 1]."""
    return np.array(np.broadcast_to(np.float32(1) * alu.operand32(value), (rows, 1)))


def _accumulate(op: Op, state: Array, values: Array) -> Array:
    """The running `op` of `values` [P, N] after `state` [P, 1], in fp32 and from left to right."""
    function: Any = op.alu
    running = function.accumulate(np.concatenate((state, values), axis=1), axis=1)
    return np.asarray(running[:, 1:])


_NARROW = tuple(name for name in NUMBERS if name not in ("int32", "uint32", "bool"))
_RUNNING = tuple(OPS[name] for name in ("add", "subtract", "multiply", "maximum", "minimum"))


def _nothing_to_load(instruction: Any, _: Sizes) -> str | None:
    loading = instruction.reduce_cmd is ReduceCmd.load_reduce
    return "imm1=None with load_reduce" if loading and instruction.imm1 is None else None


@dataclass(slots=True, eq=False)
class TensorScalarCumulative(Instruction):
    """register = op1(op0(src[f], imm0), register); dst[f] = register.

    `imm1` is what load_reduce starts from; other commands leave it unused.
    """

    opcode: ClassVar[str] = "tensor_scalar_cumulative"
    engines: ClassVar = (Engine.vector,)
    operands: ClassVar = (
        Operand("dst", "PF", WRITE, dtypes=_NARROW),
        Operand("src", "PF", READ, dtypes=_NARROW),
        Operand("imm0", "P1", READ, dtypes=("float32",), scalar=True),
        Operand("imm1", "P1", READ, dtypes=("float32",), scalar=True, optional=True),
    )
    rules: ClassVar = (
        accumulators.commands(ReduceCmd.reset_reduce, ReduceCmd.reduce, ReduceCmd.load_reduce),
        Rule("load_reduce loads imm1", _nothing_to_load, "pass imm1", "tensor_scalar_cumulative"),
    )
    numerics: ClassVar[str] = "fp32 registers, one rounding on each write"
    cost: ClassVar[Costs] = Costs("max(64, 2 * N)", words="not published")
    example: ClassVar = {"op0": OPS["multiply"], "op1": OPS["add"]}

    dst: NkiTensor
    src: NkiTensor
    op0: Op
    op1: Op
    imm0: NkiTensor | float
    imm1: NkiTensor | float | None = None
    reduce_cmd: ReduceCmd = ReduceCmd.reset_reduce

    def check(self) -> Sizes:
        alu.require_op(self.opcode, "op0", self.op0, _BINARY)
        alu.require_op(self.opcode, "op1", self.op1, _RUNNING)
        return Instruction.check(self)

    def execute(self, program: Program) -> None:
        registers = accumulators.prepare(
            program, self, self.src, self.op1, self.reduce_cmd, self.imm1
        )
        values = alu.chain(self.op0, self.src.rows32(), alu.operand32(self.imm0), False)
        if self.op1 is OPS["subtract"]:
            result = _alternate(registers, values)
        else:
            result = _accumulate(self.op1, registers, values)
        registers[...] = result[:, -1:]
        alu.write(self.dst, result)


def _alternate(state: Array, values: Array) -> Array:
    """Each value minus the result before it."""
    result = np.empty_like(values)
    for column in range(values.shape[1]):
        state = values[:, column : column + 1] - state
        result[:, column : column + 1] = state
    return result
