"""Element-wise and reducing instructions of the vector engine (some run elsewhere too)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ..constants import PSUM, Engine, NcVersion
from ..dtypes import TABLE, to_float32
from ..machine import Program
from ..operators import ALU_BINARY, OPS, REDUCTIONS, Op
from ..schedule import advise
from ..views import NkiTensor
from . import alu
from .alu import BITWISE_ON_INTEGERS, BITWISE_ON_VECTOR, SLOW_ON_GPSIMD, write
from .base import (
    READ,
    WRITE,
    Instruction,
    Operand,
    Rule,
    Sizes,
    at_most_one_in_psum,
)
from .costs import Cost, Costs

ANY_TYPE = tuple(TABLE)
_EXACT_INTEGERS = ("int32", "uint32")


@dataclass(slots=True, eq=False)
class TensorTensor(Instruction):
    """dst = op(data1, data2), element by element."""

    opcode: ClassVar[str] = "tensor_tensor"
    engines: ClassVar = (Engine.vector, Engine.gpsimd)
    operands: ClassVar = (
        Operand("dst", "PF", WRITE),
        Operand("data1", "PF", READ),
        Operand("data2", "PF", READ),
    )
    rules: ClassVar = (
        at_most_one_in_psum("data1", "data2"),
        BITWISE_ON_INTEGERS,
        BITWISE_ON_VECTOR,
        SLOW_ON_GPSIMD,
    )
    numerics: ClassVar[str] = (
        "fp32 inside, one rounding on write; int32/uint32 on GpSimd exact; bitwise on raw bits"
    )
    cost: ClassVar[Costs] = Costs(
        Cost("max(64, N)", "if an input is in PSUM", lambda i: i.reads_psum()),
        Cost(
            "max(64, N)",
            "if all is contiguous bf16 in SBUF (add, multiply, subtract)",
            lambda i: i.is_fast(),
        ),
        Cost("max(64, 2 * N)"),
    )
    example: ClassVar = {"op": OPS["add"]}

    dst: NkiTensor
    data1: NkiTensor
    data2: NkiTensor
    op: Op

    def is_bitwise(self) -> bool:
        """Whether the operator works on raw bits."""
        return self.op.bitwise

    def operators(self) -> tuple[Op, ...]:
        """The operator."""
        return (self.op,)

    def choose_engine(self) -> Engine:
        exact = self._all_exact_integers() and not self.op.bitwise and not self._touches_psum()
        return Engine.gpsimd if exact or alu.needs_gpsimd(self.op) else Engine.vector

    def _all_exact_integers(self) -> bool:
        return all(t.dtype in _EXACT_INTEGERS for _, t in self.tensors())

    def _touches_psum(self) -> bool:
        return any(t.buffer is PSUM for _, t in self.tensors())

    def reads_psum(self) -> bool:
        """Whether an input is in PSUM."""
        return self.data1.buffer is PSUM or self.data2.buffer is PSUM

    def is_fast(self) -> bool:
        """Whether it is an addition, subtraction or product of contiguous bf16 in SBUF."""
        return self.op.name in ("add", "multiply", "subtract") and all(
            t.dtype == "bfloat16" and t.buffer is not PSUM and t.is_contiguous()
            for _, t in self.tensors()
        )

    def check(self) -> Sizes:
        alu.require_alu(self.opcode, "op", self.op, ALU_BINARY)
        return Instruction.check(self)

    def execute(self, program: Program) -> None:
        if self.op.bitwise:
            left, right = self.data1.rows(), self.data2.rows()
            write(self.dst, alu.apply(self.op, left, right, False))
        elif self.engine is Engine.gpsimd and self._all_exact_integers():
            left, right = self.data1.rows().astype(np.float64), self.data2.rows().astype(np.float64)
            write(self.dst, alu.apply(self.op, left, right, False))
        else:
            alu.apply_into(self.dst, self.op, self.data1.rows32(), self.data2.rows32(), False)


def _scalar_operand_types(instruction: Any, _: Sizes) -> str | None:
    """Tile operands of arithmetic are fp32; bitwise immediates are integers."""
    bitwise = instruction.is_bitwise()
    for role in ("operand0", "operand1"):
        value = getattr(instruction, role)
        if isinstance(value, NkiTensor):
            if not bitwise and value.dtype != "float32":
                return f"{role} {value}"
        elif bitwise and value is not None and type(value) is not int:
            return f"{role} {value!r} with a bitwise operator"
    return None


SCALAR_OPERAND_TYPES = Rule(
    "an arithmetic tile operand is float32, a bitwise immediate is an integer",
    _scalar_operand_types,
    "copy the operand to a float32 tile of one element per partition",
    "tensor_scalar",
)


def _scalar_engine_combination(instruction: Any, _: Sizes) -> str | None:
    if instruction.engine is not Engine.scalar:
        return None
    pair = (instruction.op0.name, getattr(instruction.op1, "name", None))
    legal = {("multiply", "add"), ("multiply", None), ("add", None)}
    return None if pair in legal else f"op0={instruction.op0!r}, op1={instruction.op1!r}"


def _missing_operand(instruction: Any, _: Sizes) -> str | None:
    if instruction.op0.arity == 2 and instruction.operand0 is None:
        return "operand0=None"
    if instruction.op1 is not None and instruction.op1.arity == 2 and instruction.operand1 is None:
        return "operand1=None"
    return None


@dataclass(slots=True, eq=False)
class TensorScalar(Instruction):
    """dst = op1(op0(data, operand0), operand1); an operand is a number or one per partition."""

    opcode: ClassVar[str] = "tensor_scalar"
    engines: ClassVar = (Engine.vector, Engine.scalar, Engine.gpsimd)
    operands: ClassVar = (
        Operand("dst", "PF", WRITE),
        Operand("data", "PF", READ),
        Operand("operand0", "P1", READ, scalar=True, optional=True),
        Operand("operand1", "P1", READ, scalar=True, optional=True),
    )
    rules: ClassVar = (
        Rule(
            "both operators are bitwise or neither is",
            lambda i, _: i.mixed(),
            "use two instructions",
            "tensor_scalar",
        ),
        Rule(
            "an operator of two operands has its operand",
            _missing_operand,
            "pass it",
            "tensor_scalar",
        ),
        SCALAR_OPERAND_TYPES,
        BITWISE_ON_INTEGERS,
        BITWISE_ON_VECTOR,
        SLOW_ON_GPSIMD,
        Rule(
            "the scalar engine does multiply, add, or multiply then add",
            _scalar_engine_combination,
            "leave the engine out",
            "tensor_scalar",
        ),
    )
    numerics: ClassVar[str] = (
        "fp32 inside (integers too), one rounding on write; bitwise on raw bits"
    )
    cost: ClassVar[Costs] = Costs(
        "max(64, N)", words="max(64, N); 2x or 4x faster for 16-bit tiles in SBUF"
    )
    example: ClassVar = {"op0": OPS["multiply"], "op1": OPS["add"]}

    dst: NkiTensor
    data: NkiTensor
    op0: Op
    operand0: NkiTensor | float | None
    reverse0: bool = False
    op1: Op | None = None
    operand1: NkiTensor | float | None = None
    reverse1: bool = False

    def is_bitwise(self) -> bool:
        """Whether the operators work on raw bits."""
        return self.op0.bitwise

    def operators(self) -> tuple[Op | None, ...]:
        """Both operators."""
        return self.op0, self.op1

    def mixed(self) -> str | None:
        """Both operators when one is bitwise and the other is not."""
        if self.op1 is not None and self.op1.bitwise != self.op0.bitwise:
            return f"op0={self.op0!r}, op1={self.op1!r}"
        return None

    def choose_engine(self) -> Engine:
        return Engine.gpsimd if alu.needs_gpsimd(self.op0, self.op1) else Engine.vector

    def check(self) -> Sizes:
        alu.require_alu(self.opcode, "op0", self.op0, _TENSOR_SCALAR_OPS)
        if self.op1 is not None:
            alu.require_op(self.opcode, "op1", self.op1, _SECOND_OPS)
        elif self.operand1 is not None:
            raise self.refuse("operand1 needs op1", f"operand1={self.operand1!r}, op1=None")
        return Instruction.check(self)

    def execute(self, program: Program) -> None:
        if self.op0.bitwise:
            self._execute_bitwise()
            return
        values = self.data.rows32()
        op, operand, reverse = self.op0, self.operand0, self.reverse0
        if self.op1 is not None:
            values = alu.chain(op, values, alu.operand32(operand), reverse)
            op, operand, reverse = self.op1, self.operand1, self.reverse1
        alu.apply_into(self.dst, op, values, alu.operand32(operand), reverse)

    def _execute_bitwise(self) -> None:
        values = self.data.rows()
        stages = (
            (self.op0, self.operand0, self.reverse0),
            (self.op1, self.operand1, self.reverse1),
        )
        for op, operand, reverse in stages:
            if op is not None:
                values = alu.apply(op, values, alu.operand_bits(operand, values), reverse)
        write(self.dst, values)


_TENSOR_SCALAR_OPS = tuple(op for op in OPS.values() if op.alu is not None)
_SECOND_OPS = tuple(op for op in _TENSOR_SCALAR_OPS if op.alu_since is NcVersion.gen2)


@dataclass(slots=True, eq=False)
class ScalarTensorTensor(Instruction):
    """dst = op1(op0(data, operand0), operand1): a number or column, then a tile."""

    opcode: ClassVar[str] = "scalar_tensor_tensor"
    engines: ClassVar = (Engine.vector,)
    operands: ClassVar = (
        Operand("dst", "PF", WRITE),
        Operand("data", "PF", READ),
        Operand("operand0", "P1", READ, dtypes=("float32",), scalar=True),
        Operand("operand1", "PF", READ),
    )
    rules: ClassVar = (at_most_one_in_psum("data", "operand1"),)
    cost: ClassVar[Costs] = Costs(
        Cost(
            "max(64, N)",
            "for bf16 subtract or multiply on even N",
            lambda i: (
                i.op1.name in ("subtract", "multiply")
                and i.data.free % 2 == 0
                and all(t.dtype == "bfloat16" for t in (i.dst, i.data, i.operand1))
            ),
        ),
        Cost("max(64, 2 * N)"),
    )
    example: ClassVar = {"op0": OPS["multiply"], "op1": OPS["add"]}

    dst: NkiTensor
    data: NkiTensor
    op0: Op
    operand0: NkiTensor | float
    op1: Op
    operand1: NkiTensor
    reverse0: bool = False
    reverse1: bool = False

    def check(self) -> Sizes:
        alu.require_op(self.opcode, "op0", self.op0, _ARITHMETIC)
        alu.require_op(self.opcode, "op1", self.op1, _ARITHMETIC)
        return Instruction.check(self)

    def execute(self, program: Program) -> None:
        first = alu.chain(self.op0, self.data.rows32(), alu.operand32(self.operand0), self.reverse0)
        alu.apply_into(self.dst, self.op1, first, self.operand1.rows32(), self.reverse1)


_ARITHMETIC = tuple(op for op in ALU_BINARY if not op.bitwise and op in _SECOND_OPS)


@dataclass(slots=True, eq=False)
class Reciprocal(Instruction):
    """dst = 1 / data."""

    opcode: ClassVar[str] = "reciprocal"
    engines: ClassVar = (Engine.vector,)
    operands: ClassVar = (Operand("dst", "PF", WRITE), Operand("data", "PF", READ))
    cost: ClassVar[Costs] = Costs("max(64, 8 * N)")

    dst: NkiTensor
    data: NkiTensor

    def execute(self, program: Program) -> None:
        write(self.dst, np.reciprocal(self.data.rows32()))


@dataclass(slots=True, eq=False)
class TensorReduce(Instruction):
    """dst = op over the trailing free dimensions `axis` of data, negated on request."""

    opcode: ClassVar[str] = "tensor_reduce"
    engines: ClassVar = (Engine.vector,)
    operands: ClassVar = (Operand("dst", "PR", WRITE), Operand("data", "PF", READ))
    rules: ClassVar = (
        Rule(
            "dst has one element per kept element of data, per partition",
            lambda i, s: i.wrong_count(s),
            "allocate dst with the kept dimensions, or (P, 1) when all are reduced",
            "tensor_reduce",
        ),
        BITWISE_ON_INTEGERS,
    )
    work: ClassVar[str] = "data"
    numerics: ClassVar[str] = (
        "fp32 accumulation (order unspecified), one rounding on write; bitwise on raw bits"
    )
    cost: ClassVar[Costs] = Costs(
        Cost(
            "max(64, N / 2)",
            "for bf16 add and maximum",
            lambda i: i.op.name in ("add", "maximum") and i.dst.dtype == i.data.dtype == "bfloat16",
        ),
        Cost("max(64, N)"),
    )
    example: ClassVar = {"op": OPS["add"], "axis": 1}

    dst: NkiTensor
    op: Op
    data: NkiTensor
    axis: int | Sequence[int]
    negate: bool = False
    keepdims: bool = False
    kept: int = field(default=1, init=False)

    def is_bitwise(self) -> bool:
        """Whether the operator works on raw bits."""
        return self.op.bitwise

    def check(self) -> Sizes:
        alu.require_op(self.opcode, "op", self.op, REDUCTIONS)
        if isinstance(self.data, NkiTensor):
            self.kept = self._kept_elements(self.data)
        return Instruction.check(self)

    def _kept_elements(self, data: NkiTensor) -> int:
        """Free elements that remain: the product of the dimensions that are not reduced."""
        axes: list[Any] = list(self.axis) if isinstance(self.axis, list | tuple) else [self.axis]
        rank = data.ndim
        if any(type(axis) is not int for axis in axes):
            raise self.refuse("axis is an integer or a list of them", repr(self.axis))
        # NKI 0.2 numbers the free dimensions 1..4 whatever the rank, innermost last, and takes
        # axis=1 for the innermost; both are no trailing dimensions since
        if axes and max(axes) == 4 >= rank:
            axes = [axis + rank - 5 for axis in axes]
        elif self.axis == 1 and rank > 2:
            advise(
                f"tensor_reduce: axis=1 of {rank} dimensions is refused from SDK 2.29 on; reduced "
                f"is the last one, as before: write axis={rank - 1}"
            )
            axes = [rank - 1]
        if sorted(axes) != list(range(rank - len(axes), rank)) or len(axes) >= rank or not axes:
            raise self.refuse(
                f"axis names the trailing free dimensions, up to {rank - 1}",
                f"axis={self.axis!r} on {data}",
                "make the reduced dimensions the last; a 2-D tile with axis=1 works on every SDK",
            )
        return math.prod(data.shape[1 : rank - len(axes)])

    def wrong_count(self, sizes: Sizes) -> str | None:
        """The element count of dst when it is not the kept one."""
        return (
            None
            if sizes["R"] == self.kept
            else f"dst {self.dst} for {self.kept} kept elements of {self.data}"
        )

    def execute(self, program: Program) -> None:
        values = self.data.rows() if self.op.bitwise else self.data.rows32()
        grouped = values.reshape(self.data.partitions * self.kept, -1)
        result = alu.reduce_free(self.op, grouped).reshape(self.data.partitions, self.kept)
        write(self.dst, -to_float32(result) if self.negate else result)
