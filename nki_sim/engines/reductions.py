"""Reductions beside `tensor_reduce`: fused with an operator or an exponential, over partitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..constants import SBUF, Engine, NcVersion, ReduceCmd
from ..dtypes import FLOATS
from ..machine import Program
from ..operators import OPS, Op
from ..views import NkiTensor
from . import accumulators, alu
from .alu import BITWISE_ON_INTEGERS
from .base import READ, WRITE, Instruction, Operand, Rule, Sizes
from .costs import Costs

ARITHMETIC = tuple(op for op in OPS.values() if op.alu is not None and not op.bitwise)
"""The arithmetic operators of the vector engine's ALU, of one or two operands."""


def _loads(parameter: str, unset: object) -> Rule:
    """The rule that an initial value comes with load_reduce and only with it."""

    def broken_by(instruction: Any, _: Sizes) -> str | None:
        value, command = getattr(instruction, parameter), instruction.reduce_cmd
        given = isinstance(value, NkiTensor) or value != unset
        loading = command is ReduceCmd.load_reduce
        wrong = (given and not loading) or (loading and value is None)
        return f"{parameter}={value!r} with {command!r}" if wrong else None

    return Rule(
        f"{parameter} is given with reduce_cmd.load_reduce, and only then",
        broken_by,
        "pass both or neither",
        "accumulator registers",
    )


def _missing_operand(instruction: Any, _: Sizes) -> str | None:
    needed = instruction.op0.arity == 2 and instruction.operand0 is None
    return "operand0=None" if needed else None


@dataclass(slots=True, eq=False)
class TensorScalarReduce(Instruction):
    """dst = op0(data, operand0); reduce_op over each row of it runs on in the registers."""

    opcode: ClassVar[str] = "tensor_scalar_reduce"
    engines: ClassVar = (Engine.vector,)
    operands: ClassVar = (
        Operand("dst", "PF", WRITE),
        Operand("data", "PF", READ),
        Operand("operand0", "P1", READ, dtypes=("float32",), scalar=True, optional=True),
        Operand("reduce_res", "P1", WRITE, optional=True),
        Operand("reduce_init", "P1", READ, dtypes=("float32",), scalar=True, optional=True),
    )
    rules: ClassVar = (
        Rule(
            "an operator of two operands has its operand",
            _missing_operand,
            "pass it",
            "tensor_scalar_reduce",
        ),
        Rule(
            "reverse0 is not supported",
            lambda i, _: "reverse0=True" if i.reverse0 else None,
            "use nisa.tensor_scalar, then nisa.tensor_reduce",
            "tensor_scalar_reduce",
        ),
        Rule(
            "reduce_res_negate needs reduce_res",
            lambda i, _: (
                "reduce_res=None" if i.reduce_res_negate and i.reduce_res is None else None
            ),
            "pass the tile that receives the result",
            "tensor_scalar_reduce, NKI 0.6",
        ),
        accumulators.operators("add", "multiply", "maximum", "minimum"),
        accumulators.commands(ReduceCmd.reset_reduce, ReduceCmd.reduce, ReduceCmd.load_reduce),
        _loads("reduce_init", None),
    )
    numerics: ClassVar[str] = (
        "fp32 inside, one rounding on write; reduces the unrounded values in fp32 (order "
        "unspecified); a reset loads the operator's identity"
    )
    cost: ClassVar[Costs] = Costs("max(64, N) + 64")
    example: ClassVar = {
        "op0": OPS["multiply"],
        "reduce_op": OPS["add"],
        "reduce_cmd": ReduceCmd.load_reduce,
    }

    dst: NkiTensor
    data: NkiTensor
    op0: Op
    operand0: NkiTensor | float | None
    reduce_op: Op
    reduce_res: NkiTensor | None = None
    reverse0: bool = False
    reduce_cmd: ReduceCmd = ReduceCmd.reset_reduce
    reduce_init: NkiTensor | float | None = None
    reduce_res_negate: bool = False

    def check(self) -> Sizes:
        alu.require_alu(self.opcode, "op0", self.op0, _WITHOUT_SLOW)
        return Instruction.check(self)

    def execute(self, program: Program) -> None:
        operand = alu.operand32(self.operand0)
        values = alu.chain(self.op0, self.data.rows32(), operand, False)
        alu.write(self.dst, values)
        accumulators.reduce(
            program, self, self.data, values, self.reduce_init, self.reduce_res_negate
        )


_WITHOUT_SLOW = tuple(op for op in ARITHMETIC if not alu.needs_gpsimd(op))

_EXPONENTIAL_OUT = (
    "float32", "float8_e4m3", "float8_e5m2", "float16", "bfloat16", "tfloat32", "int8", "int16",
    "int32", "uint8", "uint16",
)  # fmt: skip
_EXPONENTIAL_IN = (*(t for t in _EXPONENTIAL_OUT if t != "tfloat32"), "uint32")
_EXPONENTIAL_SUMS = tuple(t for t in _EXPONENTIAL_OUT if t in FLOATS)


@dataclass(slots=True, eq=False)
class Exponential(Instruction):
    """dst = exp(src - max_value); the sum of each row runs on in the registers."""

    opcode: ClassVar[str] = "exponential"
    engines: ClassVar = (Engine.vector,)
    since: ClassVar[NcVersion] = NcVersion.gen4
    operands: ClassVar = (
        Operand("dst", "PF", WRITE, dtypes=_EXPONENTIAL_OUT),
        Operand("src", "PF", READ, dtypes=_EXPONENTIAL_IN),
        Operand("max_value", "P1", READ, dtypes=("float32",), scalar=True),
        Operand("reduce_res", "P1", WRITE, dtypes=_EXPONENTIAL_SUMS, optional=True),
        Operand("reduce_init", "P1", READ, dtypes=("float32",), scalar=True),
    )
    rules: ClassVar = (
        accumulators.commands(
            ReduceCmd.idle, ReduceCmd.reset_reduce, ReduceCmd.reduce, ReduceCmd.load_reduce
        ),
        _loads("reduce_init", 0.0),
    )
    numerics: ClassVar[str] = "fp32 inside, sums of the unrounded values, one rounding on write"
    fidelity: ClassVar[str] = "approximate (the hardware's error is not published)"
    example: ClassVar = {"reduce_cmd": ReduceCmd.load_reduce}

    dst: NkiTensor
    src: NkiTensor
    max_value: NkiTensor | float = 0.0
    reduce_res: NkiTensor | None = None
    reduce_cmd: ReduceCmd = ReduceCmd.idle
    reduce_init: NkiTensor | float = 0.0
    reduce_op: ClassVar[Op] = OPS["add"]

    def execute(self, program: Program) -> None:
        values = np.exp(self.src.rows32() - alu.operand32(self.max_value))
        alu.write(self.dst, values)
        accumulators.reduce(program, self, self.src, values, self.reduce_init)


_OVER_PARTITIONS = tuple(
    OPS[name] for name in ("add", "average", "maximum", "bitwise_or", "bitwise_and")
)
_INT32 = ("int32", "uint32")


@dataclass(slots=True, eq=False)
class TensorPartitionReduce(Instruction):
    """dst[0, f] = op over the partitions of data[:, f]."""

    opcode: ClassVar[str] = "tensor_partition_reduce"
    engines: ClassVar = (Engine.gpsimd,)
    operands: ClassVar = (
        Operand("dst", "1F", WRITE, memories=(SBUF,)),
        Operand("data", "PF", READ, memories=(SBUF,)),
    )
    rules: ClassVar = (BITWISE_ON_INTEGERS,)
    work: ClassVar[str] = "data"
    numerics: ClassVar[str] = (
        "fp32 accumulation (order unspecified), one rounding on write; 32-bit integers exact; "
        "bitwise on raw bits"
    )
    cost: ClassVar[Costs] = Costs("150 + 8 * N", words="not published (slow)")
    example: ClassVar = {"op": OPS["add"]}

    dst: NkiTensor
    op: Op
    data: NkiTensor

    def is_bitwise(self) -> bool:
        """Whether the operator works on raw bits."""
        return self.op.bitwise

    def check(self) -> Sizes:
        alu.require_op(self.opcode, "op", self.op, _OVER_PARTITIONS)
        return Instruction.check(self)

    def execute(self, program: Program) -> None:
        if self.op.bitwise:
            values = self.data.rows()
        elif self.data.dtype in _INT32 and self.dst.dtype in _INT32:
            values = self.data.rows().astype(np.float64)
        else:
            values = self.data.rows32()
        average = self.op is OPS["average"]
        reducer: Any = OPS["add"].alu if average else self.op.alu
        result = reducer.reduce(values, axis=0, keepdims=True)
        alu.write(self.dst, result / values.dtype.type(len(values)) if average else result)
