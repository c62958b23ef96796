"""Instructions that move or fill on chip: copies, predicated copies, memset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..constants import SBUF, Engine, NcVersion
from ..dtypes import TABLE, Array, store, to_float32
from ..errors import IllegalProgram
from ..machine import Program, current
from ..schedule import advise
from ..views import NkiTensor
from .alu import write
from .base import READ, UPDATE, WRITE, Instruction, Operand, Rule, Sizes, at_most_one_in_psum
from .costs import Cost, Costs

ANY_TYPE = tuple(TABLE)
HALVES = ("bfloat16", "float16")


def _scalar_engine_is_late(instruction: Any, _: Sizes) -> str | None:
    program = current(instruction.opcode)
    if instruction.engine is Engine.scalar and program.platform.version is NcVersion.gen2:
        return f"engine=scalar on {program.platform.name}"
    return None


@dataclass(slots=True, eq=False)
class TensorCopy(Instruction):
    """dst = src, cast to dst's type; bit-exact when the types are equal."""

    opcode: ClassVar[str] = "tensor_copy"
    engines: ClassVar = (Engine.vector, Engine.scalar, Engine.gpsimd)
    operands: ClassVar = (
        Operand("dst", "PF", WRITE, dtypes=ANY_TYPE),
        Operand("src", "PF", READ, dtypes=ANY_TYPE),
    )
    rules: ClassVar = (
        Rule(
            "the scalar engine copies from trn2 on",
            _scalar_engine_is_late,
            "leave the engine out",
            "tensor_copy",
        ),
    )
    numerics: ClassVar[str] = "bit copy between equal types, else through fp32"

    dst: NkiTensor
    src: NkiTensor

    def execute(self, program: Program) -> None:
        copy_cast(self.dst, self.src, self.opcode)


def copy_cast(dst: NkiTensor, src: NkiTensor, operation: str) -> None:
    """Copy elements in row-major order: the bits between equal types, else through fp32."""
    source = src.array
    if src.dtype == dst.dtype:
        dst.array[...] = source if source.shape == dst.shape else source.reshape(dst.shape)
        return
    for tensor in (src, dst):
        if TABLE[tensor.dtype].kind == "packed":
            raise IllegalProgram(
                operation, "packed types are moved, not converted", f"{src} to {dst}", "use .view"
            )
    write(dst, to_float32(source))


@dataclass(slots=True, eq=False)
class TensorCopyPredicated(Instruction):
    """dst = src where the predicate is non-zero (zero when reversed); dst elsewhere stays."""

    opcode: ClassVar[str] = "tensor_copy_predicated"
    engines: ClassVar = (Engine.vector,)
    operands: ClassVar = (
        Operand("dst", "PF", UPDATE),
        Operand("src", "PF", READ, scalar=True),
        Operand("predicate", "PF", READ, dtypes=("uint8", "uint16", "uint32")),
    )
    rules: ClassVar = (
        Rule(
            "src has dst's type",
            lambda i, _: (
                f"{i.src} and {i.dst}"
                if getattr(i.src, "dtype", i.dst.dtype) != i.dst.dtype
                else None
            ),
            "convert src first",
            "tensor_copy_predicated",
        ),
        at_most_one_in_psum("src", "predicate"),
    )
    numerics: ClassVar[str] = "bit copy"
    cost: ClassVar[Costs] = Costs(
        Cost(
            "2 * N",
            "with both inputs in SBUF",
            lambda i: i.predicate.buffer is SBUF and getattr(i.src, "buffer", SBUF) is SBUF,
        ),
        Cost("N"),
    )

    dst: NkiTensor
    src: NkiTensor | float
    predicate: NkiTensor
    reverse_pred: bool = False

    def execute(self, program: Program) -> None:
        chosen = self._chosen()
        if isinstance(self.src, NkiTensor):
            source = self.src.array.reshape(self.dst.shape)
        else:
            source = np.empty(1, self.dst.array.dtype)
            store(source, np.array([self.src], np.float32))
        np.copyto(self.dst.array, source, where=chosen)

    def _chosen(self) -> Array:
        chosen = self.predicate.array.reshape(self.dst.shape) != 0
        return ~chosen if self.reverse_pred else chosen

    def settle(self, operand: Operand, tensor: NkiTensor) -> None:
        tensor.mark_written_where(self._chosen())


def _memset_kind(instruction: Any, _: Sizes) -> str | None:
    value, dtype = instruction.value, TABLE[instruction.dst.dtype]
    if type(value) not in (int, float):
        return f"value {value!r}"
    if dtype.kind == "float":
        return None
    bounds = np.iinfo(dtype.numpy)
    legal = value == 0 if dtype.kind == "packed" else bounds.min <= value <= bounds.max
    return None if legal and (type(value) is int or value == 0) else f"{value!r} for {dtype.name}"


@dataclass(slots=True, eq=False)
class Memset(Instruction):
    """dst = value everywhere."""

    opcode: ClassVar[str] = "memset"
    engines: ClassVar = (Engine.vector, Engine.gpsimd)
    operands: ClassVar = (Operand("dst", "PF", WRITE, dtypes=ANY_TYPE),)
    rules: ClassVar = (
        Rule(
            "the value is a Python number that dst can hold, of its kind (0 for packed types)",
            _memset_kind,
            "write an integer literal for an integer tensor",
            "memset, NKI 0.3; an integer for a float tensor is common in published kernels, and "
            "so is 0.0 for an integer or packed one",
        ),
    )
    numerics: ClassVar[str] = "the value is converted to dst's type beforehand"
    cost: ClassVar[Costs] = Costs(
        Cost(
            "max(64, N / 2)",
            "for zeros of bf16 and fp16",
            lambda i: not i.value and i.dst.dtype in HALVES,
        ),
        Cost("max(64, N)"),
    )
    example: ClassVar = {"value": 0}

    dst: NkiTensor
    value: float

    def check(self) -> Sizes:
        sizes = Instruction.check(self)
        if type(self.value) is float and TABLE[self.dst.dtype].kind != "float":
            advise(
                f"memset: {self.value!r} for {self.dst.dtype} is documented as refused from SDK "
                "2.29 on; write 0"
            )
        return sizes

    def execute(self, program: Program) -> None:
        self.dst.array[...] = self.value
