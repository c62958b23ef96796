"""Instructions that move values between registers and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..constants import HBM, SBUF, Engine
from ..dtypes import INTEGERS, TABLE
from ..machine import Program, current
from ..registers import VirtualRegister
from ..views import NkiTensor
from .base import READ, WRITE, Instruction, Operand, Rule, Sizes
from .costs import Costs

REGISTER_TYPES = (*INTEGERS, "float32")

SOURCE = Rule(
    "the register comes from nisa.register_alloc",
    lambda i, _: None if isinstance(i.register, VirtualRegister) else repr(i.register),
    "allocate one",
    "register_load, register_store",
)


@dataclass(slots=True, eq=False)
class RegisterLoad(Instruction):
    """register = the one element of src."""

    opcode: ClassVar[str] = "register_load"
    engines: ClassVar = (Engine.sync,)
    operands: ClassVar = (Operand("src", "1", READ, memories=(SBUF, *HBM), dtypes=REGISTER_TYPES),)
    limits: ClassVar = ()
    rules: ClassVar = (SOURCE,)
    work: ClassVar[str] = "src"
    numerics: ClassVar[str] = "bit copy; small integers widened"
    cost: ClassVar[Costs] = Costs(words="not published")
    example: ClassVar = {"register": VirtualRegister()}

    register: VirtualRegister
    src: NkiTensor

    def run(self, program: Program) -> None:
        if not program.numeric:
            self.register.write(None, self.opcode, unknown=True)
            return
        value = self.src.array.reshape(-1)[0]
        self.register.write(
            float(value) if self.src.dtype == "float32" else int(value), self.opcode
        )


def _wrong_kind(instruction: Any, _: Sizes) -> str | None:
    value, dtype = instruction.register.value, TABLE[instruction.dst.dtype]
    if value is None or isinstance(value, float) == (dtype.kind == "float"):
        return None
    kind = "a float" if isinstance(value, float) else "an integer"
    return f"{kind} to {instruction.dst}"


@dataclass(slots=True, eq=False)
class RegisterStore(Instruction):
    """The one element of dst = register; integers keep dst's low bits."""

    opcode: ClassVar[str] = "register_store"
    engines: ClassVar = (Engine.sync,)
    operands: ClassVar = (Operand("dst", "1", WRITE, memories=(SBUF, *HBM), dtypes=REGISTER_TYPES),)
    limits: ClassVar = ()
    rules: ClassVar = (
        SOURCE,
        Rule(
            "dst has the kind of number that the register holds",
            _wrong_kind,
            "store to int32 or float32, and convert with nisa.tensor_copy",
            "register_store",
        ),
    )
    numerics: ClassVar[str] = "bit copy"
    cost: ClassVar[Costs] = Costs(words="not published")
    example: ClassVar = {"register": VirtualRegister(1)}

    dst: NkiTensor
    register: VirtualRegister

    def check(self) -> Sizes:
        sizes = Instruction.check(self)
        if current(self.opcode).checked:
            self.register.require_written(self.opcode, "src")
        return sizes

    def execute(self, program: Program) -> None:
        value: Any = self.register.value
        if isinstance(value, int):
            bits = 8 * self.dst.itemsize
            value &= (1 << bits) - 1
            if not self.dst.dtype.startswith("u") and value >> (bits - 1):
                value -= 1 << bits
        self.dst.array[...] = value
