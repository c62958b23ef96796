"""The scalar (activation) engine: functions from tables, affine inputs, running row sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..constants import Engine, NcVersion, ReduceCmd
from ..dtypes import FLOATS
from ..errors import NotModelled, UninitialisedRead
from ..machine import Program, current
from ..operators import ACTIVATIONS, OPS, Op
from ..views import NkiTensor
from . import alu
from .base import READ, WRITE, Instruction, Operand, Rule, Sizes

_ADD = OPS["add"]
_RESETS = (ReduceCmd.reset, ReduceCmd.reset_reduce)
_REDUCES = (ReduceCmd.reduce, ReduceCmd.reset_reduce)


def _reduction(instruction: Any, _: Sizes) -> str | None:
    if instruction.reduce_cmd in _REDUCES and instruction.reduce_op is not _ADD:
        return f"reduce_op={instruction.reduce_op!r} with {instruction.reduce_cmd!r}"
    return None


def _scalar_bias(instruction: Any, _: Sizes) -> str | None:
    if instruction.bias is None or isinstance(instruction.bias, NkiTensor):
        return None
    program = current(instruction.opcode)
    return f"bias={instruction.bias!r}" if program.platform.version is NcVersion.gen2 else None


@dataclass(slots=True, eq=False)
class Activation(Instruction):
    """dst = op(scale * data + bias); row sums, on request, in the accumulator registers."""

    opcode: ClassVar[str] = "activation"
    engines: ClassVar = (Engine.scalar,)
    operands: ClassVar = (
        Operand("dst", "PF", WRITE),
        Operand("data", "PF", READ),
        Operand("bias", "P1", READ, dtypes=FLOATS, scalar=True, optional=True),
        Operand("scale", "P1", READ, dtypes=("float32",), scalar=True),
        Operand("reduce_res", "P1", WRITE, optional=True),
    )
    rules: ClassVar = (
        Rule("a reduction adds", _reduction, "pass reduce_op=nl.add", "activation"),
        Rule(
            "a number as bias needs trn2 or later",
            _scalar_bias,
            "pass a (P, 1) tile",
            "activation, NKI 0.3",
        ),
    )
    numerics: ClassVar[str] = (
        "op exact in fp32, sums of the unrounded values in fp32, one rounding on write"
    )
    fidelity: ClassVar[str] = "approximate (the hardware's tables are piecewise polynomials)"
    cost: ClassVar[str] = "max(64, N), 64 more to read the registers"
    example: ClassVar = {
        "op": OPS["exp"],
        "reduce_op": _ADD,
        "reduce_cmd": ReduceCmd.reset_reduce,
    }

    dst: NkiTensor
    op: Op
    data: NkiTensor
    bias: NkiTensor | float | None = None
    scale: NkiTensor | float = 1.0
    reduce_op: Op | None = None
    reduce_res: NkiTensor | None = None
    reduce_cmd: ReduceCmd = ReduceCmd.idle

    def check(self) -> Sizes:
        alu.require_op(self.opcode, "op", self.op, ACTIVATIONS)
        if self.reduce_cmd is ReduceCmd.load_reduce:
            raise NotModelled(self.opcode, "reduce_cmd.load_reduce is not modelled")
        return Instruction.check(self)

    def execute(self, program: Program) -> None:
        function: Any = self.op.activation
        result = function(self._input())
        if self.reduce_cmd is not ReduceCmd.idle or self.reduce_res is not None:
            self._accumulate(program, result)
        alu.write(self.dst, result)

    def _input(self) -> Any:
        """scale * data + bias as fp32 [partitions, free]."""
        values = self.data.rows32()
        if not (type(self.scale) is float and self.scale == 1.0):
            values = values * alu.operand32(self.scale)
        if self.bias is not None:
            values = values + alu.operand32(self.bias)
        return values

    def _accumulate(self, program: Program, result: Any) -> None:
        """Update the registers of data's partitions and read them into `reduce_res`."""
        registers, valid = program.accumulator(Engine.scalar)
        start = self.data.start_partition
        lanes = slice(start, start + self.data.partitions)
        if self.reduce_cmd in _RESETS:
            registers[lanes] = 0
            valid[lanes] = True
        if not valid[lanes].all():
            raise UninitialisedRead(
                self.opcode,
                "the accumulator registers must be reset before they are used",
                f"{self.reduce_cmd!r}",
                "pass reduce_cmd=nisa.reduce_cmd.reset_reduce in the first instruction",
            )
        if self.reduce_cmd in _REDUCES:
            registers[lanes] += result.sum(axis=1, dtype=np.float32)
        if self.reduce_res is not None:
            alu.write(self.reduce_res, registers[lanes].reshape(-1, 1))


@dataclass(slots=True, eq=False)
class ActivationReduce(Activation):
    """`activation` with reduce_cmd=reset_reduce."""

    opcode: ClassVar[str] = "activation_reduce"
