"""The scalar (activation) engine: functions from tables, affine inputs, running row sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..constants import Engine, NcVersion, ReduceCmd
from ..dtypes import FLOATS
from ..machine import Program, current
from ..operators import ACTIVATIONS, OPS, Op, prelu
from ..views import NkiTensor
from . import accumulators, alu
from .base import READ, WRITE, Instruction, Operand, Rule, Sizes
from .costs import Cost, Costs

_ADD = OPS["add"]
_BIAS_TYPES = tuple(name for name in FLOATS if name != "tfloat32")
_COMMANDS = accumulators.commands(
    ReduceCmd.idle, ReduceCmd.reset, ReduceCmd.reduce, ReduceCmd.reset_reduce
)


def _reduction(instruction: Any, _: Sizes) -> str | None:
    if instruction.reduce_cmd in accumulators.REDUCES and instruction.reduce_op is not _ADD:
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
        Operand("bias", "P1", READ, dtypes=_BIAS_TYPES, scalar=True, optional=True),
        Operand("scale", "P1", READ, dtypes=("float32",), scalar=True),
        Operand("reduce_res", "P1", WRITE, optional=True),
    )
    rules: ClassVar = (
        _COMMANDS,
        Rule("a reduction adds", _reduction, "pass reduce_op=nl.add", "activation"),
        Rule(
            "a number as bias needs trn2 or later",
            _scalar_bias,
            "pass a (P, 1) tile",
            "activation, NKI 0.3",
        ),
    )
    timed: ClassVar[tuple[str, ...]] = ("op",)
    numerics: ClassVar[str] = (
        "op exact in fp32, sums of the unrounded values in fp32, one rounding on write"
    )
    fidelity: ClassVar[str] = "approximate (the hardware's tables are piecewise polynomials)"
    cost: ClassVar[Costs] = Costs(
        Cost(
            "max(64, N) + 64",
            "when it reads the registers",
            lambda i: i.reduce_res is not None or i.opcode == "activation_reduce",
        ),
        Cost("max(64, N)"),
    )
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
        return Instruction.check(self)

    def execute(self, program: Program) -> None:
        function: Any = self.op.activation
        result = function(self._input())
        alu.write(self.dst, result)
        if self.reduce_cmd is not ReduceCmd.idle or self.reduce_res is not None:
            accumulators.reduce(program, self, self.data, result)

    def _input(self) -> Any:
        """scale * data + bias as fp32 [partitions, free]."""
        values = self.data.rows32()
        if not (type(self.scale) is float and self.scale == 1.0):
            values = values * alu.operand32(self.scale)
        if self.bias is not None:
            values = values + alu.operand32(self.bias)
        return values


@dataclass(slots=True, eq=False)
class ActivationReduce(Activation):
    """`activation` with reduce_cmd=reset_reduce."""

    opcode: ClassVar[str] = "activation_reduce"


_PRELU, _BYPASS = OPS["prelu"], OPS["bypass"]
_STAGES = (
    ("multiply", "add"),
    ("multiply", "subtract"),
    ("multiply", "bypass"),
    ("add", "bypass"),
    ("subtract", "bypass"),
    ("bypass", "bypass"),
)


def _bad_stages(instruction: Any, _: Sizes) -> str | None:
    pair = tuple(getattr(op, "name", op) for op in (instruction.op0, instruction.op1))
    return None if pair in _STAGES else f"op0={instruction.op0!r}, op1={instruction.op1!r}"


def _reversed_bypass(instruction: Any, _: Sizes) -> str | None:
    for number in "01":
        if getattr(instruction, f"reverse{number}") and (
            getattr(instruction, f"op{number}") is _BYPASS
        ):
            return f"reverse{number}=True with op{number}=nl.bypass"
    return None


def _mixed_immediates(instruction: Any, _: Sizes) -> str | None:
    first, second = instruction.imm0, instruction.imm1
    if isinstance(first, NkiTensor) and isinstance(second, NkiTensor):
        return f"{first} and {second}" if first.dtype != second.dtype else None
    return None


def _stray_parameter(instruction: Any, _: Sizes) -> str | None:
    parameter = instruction.relu_param
    given = isinstance(parameter, NkiTensor) or parameter != 0
    return f"relu_param={parameter!r}" if given and instruction.op is not _PRELU else None


def _missing_reduction(instruction: Any, sizes: Sizes) -> str | None:
    reads = instruction.reduce_cmd is not ReduceCmd.idle
    return _ANY_REDUCTION.broken_by(instruction, sizes) if reads else None


_ANY_REDUCTION = accumulators.operators("add", "maximum", "minimum", "abs_max", "abs_min")


@dataclass(slots=True, eq=False)
class Activate2(Instruction):
    """dst = op(op1(op0(data, imm0), imm1)); each row reduced, on request, in the registers."""

    opcode: ClassVar[str] = "activate2"
    engines: ClassVar = (Engine.scalar,)
    since: ClassVar[NcVersion] = NcVersion.gen4
    operands: ClassVar = (
        Operand("dst", "PF", WRITE),
        Operand("data", "PF", READ),
        Operand("imm0", "P1", READ, dtypes=_BIAS_TYPES, scalar=True),
        Operand("imm1", "P1", READ, dtypes=_BIAS_TYPES, scalar=True),
        Operand("relu_param", "P1", READ, dtypes=_BIAS_TYPES, scalar=True),
        Operand("reduce_res", "P1", WRITE, optional=True),
    )
    rules: ClassVar = (
        Rule(
            "op0 and op1 are one of " + ", ".join("/".join(pair) for pair in _STAGES),
            _bad_stages,
            "use nl.bypass for a stage that does nothing",
            "activate2",
        ),
        Rule("only an operator is reversed", _reversed_bypass, "drop the reversal", "activate2"),
        Rule(
            "imm0 and imm1 have one type when both are tensors",
            _mixed_immediates,
            "convert one of them",
            "activate2",
        ),
        Rule(
            "relu_param is the parameter of nl.prelu",
            _stray_parameter,
            "leave it out",
            "activate2",
        ),
        _COMMANDS,
        Rule(
            "reduce_op is nl.add, nl.maximum, nl.minimum, nl.abs_max or nl.abs_min",
            _missing_reduction,
            "pass one of them",
            "activate2",
        ),
    )
    timed: ClassVar[tuple[str, ...]] = ("op",)
    numerics: ClassVar[str] = (
        "op exact in fp32, reduces the unrounded values in fp32, one rounding on write"
    )
    fidelity: ClassVar[str] = "approximate (the hardware's tables are piecewise polynomials)"
    cost: ClassVar[Costs] = Costs("max(64, N)", words="not published")
    example: ClassVar = {
        "op": _PRELU,
        "op0": OPS["multiply"],
        "op1": OPS["add"],
        "reduce_op": OPS["abs_max"],
        "reduce_cmd": ReduceCmd.reset_reduce,
    }

    dst: NkiTensor
    op: Op
    data: NkiTensor
    imm0: NkiTensor | float
    imm1: NkiTensor | float
    op0: Op
    op1: Op
    relu_param: NkiTensor | float = 0.0
    reverse0: bool = False
    reverse1: bool = False
    reduce_op: Op | None = None
    reduce_res: NkiTensor | None = None
    reduce_cmd: ReduceCmd = ReduceCmd.idle

    def check(self) -> Sizes:
        alu.require_op(self.opcode, "op", self.op, (*ACTIVATIONS, _PRELU))
        return Instruction.check(self)

    def execute(self, program: Program) -> None:
        values = self.data.rows32()
        stages = ((self.op0, self.imm0, self.reverse0), (self.op1, self.imm1, self.reverse1))
        for op, operand, reverse in stages:
            if op is not _BYPASS:
                values = alu.chain(op, values, alu.operand32(operand), reverse)
        function: Any = self.op.activation
        if self.op is _PRELU:
            result = prelu(values, alu.operand32(self.relu_param))
        else:
            result = function(values)
        alu.write(self.dst, result)
        if self.reduce_cmd is not ReduceCmd.idle or self.reduce_res is not None:
            accumulators.reduce(program, self, self.data, result)
