"""``nki.isa``: registers."""

from __future__ import annotations

from ...engines import registers
from ...errors import IllegalProgram
from ...handles import NkiInstruction
from ...machine import current
from ...registers import VirtualRegister
from ...views import NkiTensor
from .._surface import vendor

__all__ = ["VirtualRegister", "register_alloc", "register_load", "register_move", "register_store"]


@vendor
def register_alloc(x: int | NkiTensor | None = None) -> VirtualRegister:
    """A register, with the value `x` if given (an integer, or the element of a tensor of one)."""
    current("register_alloc")
    register = VirtualRegister()
    if isinstance(x, NkiTensor):
        register_load(register, x)
    elif x is not None:
        _write(register, x, "register_alloc")
    return register


@vendor
def register_move(
    dst: VirtualRegister,
    src: int | VirtualRegister | None = None,
    *,
    imm: int | None = None,
) -> None:
    """Set a register to an integer or to another register's value (`imm`: the name until 2.28)."""
    if not isinstance(dst, VirtualRegister):
        raise IllegalProgram("register_move", "dst is a register", repr(dst))
    current("register_move")
    if (src is None) == (imm is None):
        raise IllegalProgram("register_move", "takes src", f"src={src!r}, imm={imm!r}")
    value = imm if src is None else src
    if isinstance(value, VirtualRegister):
        value.require_written("register_move", "src")
        dst.write(value.value, "register_move", value.unknown)
    else:
        _write(dst, value, "register_move")


def _write(register: VirtualRegister, value: object, operation: str) -> None:
    if type(value) is not int:
        raise IllegalProgram(
            operation, "a constant for a register is an integer", repr(value), "pass an int"
        )
    register.write(value, operation)


@vendor
def register_load(dst: VirtualRegister, src: NkiTensor) -> NkiInstruction:
    """Load the element of a tensor of one."""
    return registers.RegisterLoad(dst, src).issue()


@vendor
def register_store(dst: NkiTensor, src: VirtualRegister) -> NkiInstruction:
    """Store a register to a tensor of one element."""
    return registers.RegisterStore(dst, src).issue()
