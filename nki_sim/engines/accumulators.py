"""The accumulator registers of an engine: one fp32 value per partition, shared by its reducing
instructions.

A first instruction resets (or loads) the registers, later ones continue; ``reduce_res`` reads them.
The vector engine's registers hold nothing certain after an instruction that could reduce but ran
with ``reduce_cmd.idle``: hardware may have changed them, so here they become invalid.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..constants import Engine, ReduceCmd
from ..dtypes import Array
from ..errors import UninitialisedRead
from ..machine import Program
from ..operators import OPS, Op
from ..views import NkiTensor
from . import alu
from .base import Instruction, Rule, Sizes

_RESETS = (ReduceCmd.reset, ReduceCmd.reset_reduce)
REDUCES = (ReduceCmd.reduce, ReduceCmd.reset_reduce, ReduceCmd.load_reduce)
IDENTITY: dict[Op | None, float] = {
    OPS["add"]: 0.0,
    OPS["subtract"]: 0.0,
    OPS["multiply"]: 1.0,
    OPS["maximum"]: -np.inf,
    OPS["minimum"]: np.inf,
    OPS["abs_max"]: 0.0,
    OPS["abs_min"]: np.inf,
}
"""What a reset puts into the registers, by reducing operator."""


def lanes(tensor: NkiTensor) -> slice:
    """The registers of a tensor's partitions."""
    start = tensor.start_partition
    return slice(start, start + tensor.partitions)


def prepare(
    program: Program, instruction: Instruction, data: NkiTensor, op: Op | None, command: ReduceCmd,
    initial: NkiTensor | float | None = None,
) -> Array:  # fmt: skip
    """The registers of `data`'s partitions [P, 1] (a view), reset or loaded as `command` says.

    Args:
        program, instruction: who asks; the instruction's engine owns the registers.
        data: its partitions say which registers.
        op: the reducing operator, whose identity is the reset value; None counts as addition.
        command: idle makes the vector engine's registers invalid and leaves the scalar engine's.
        initial: what load_reduce loads.
    """
    registers, valid = program.accumulator(instruction.engine)
    chosen = lanes(data)
    window = registers[chosen].reshape(-1, 1)
    if command in _RESETS:
        window[...] = IDENTITY.get(op, 0.0)
        valid[chosen] = True
    elif command is ReduceCmd.load_reduce:
        window[...] = alu.operand32(initial)
        valid[chosen] = True
    elif command is ReduceCmd.idle and instruction.engine is Engine.vector:
        valid[chosen] = False
    elif command is ReduceCmd.reduce:
        require_valid(instruction, valid[chosen], command)
    return window


def require_valid(instruction: Instruction, valid: Array, command: ReduceCmd) -> None:
    """Raise UninitialisedRead unless the registers hold a known value."""
    if not valid.all():
        raise UninitialisedRead(
            instruction.opcode,
            "the accumulator registers must be reset before they are used (a vector-engine "
            "instruction with reduce_cmd.idle may change them)",
            f"{command!r}",
            "pass reduce_cmd=nisa.reduce_cmd.reset_reduce in the first instruction",
        )


def reduce(
    program: Program, instruction: Any, data: NkiTensor, values: Array,
    initial: NkiTensor | float | None = None, negate: bool = False,
) -> None:  # fmt: skip
    """Do what an instruction's reduce_cmd, reduce_op and reduce_res ask with fp32 `values` [P, N].

    Args:
        program, instruction: who reduces.
        data: its partitions say which registers.
        values: the results before they are rounded to the destination's type.
        initial: what load_reduce loads.
        negate: what is read out is multiplied by -1; the registers keep their sign.
    """
    command = instruction.reduce_cmd
    op = instruction.reduce_op
    window = prepare(program, instruction, data, op, command, initial)
    if command in REDUCES:
        partial = reduce_rows(op, values)
        window[...] = op.alu(window, partial)
    if instruction.reduce_res is not None:
        _, valid = program.accumulator(instruction.engine)
        require_valid(instruction, valid[lanes(data)], command)
        alu.write(instruction.reduce_res, -window if negate else window)


def reduce_rows(op: Op, values: Array) -> Array:
    """`values` [P, N] reduced along their rows to [P, 1], in fp32."""
    if op is OPS["abs_max"]:
        return np.asarray(np.abs(values).max(axis=1, keepdims=True))
    if op is OPS["abs_min"]:
        return np.asarray(np.abs(values).min(axis=1, keepdims=True))
    return alu.reduce_free(op, values)


def commands(*legal: ReduceCmd) -> Rule:
    """The rule that `reduce_cmd` is one of those that an instruction has."""

    def broken_by(instruction: Any, _: Sizes) -> str | None:
        return None if instruction.reduce_cmd in legal else repr(instruction.reduce_cmd)

    names = ", ".join(command.name for command in legal)
    return Rule(f"reduce_cmd is {names}", broken_by, "use one of these", "accumulator registers")


def operators(*legal: str) -> Rule:
    """The rule that `reduce_op` is one of those that an instruction has."""
    ops = tuple(OPS[name] for name in legal)

    def broken_by(instruction: Any, _: Sizes) -> str | None:
        return None if instruction.reduce_op in ops else f"reduce_op={instruction.reduce_op!r}"

    names = ", ".join(f"nl.{name}" for name in legal)
    return Rule(f"reduce_op is {names}", broken_by, "use another instruction", "reduce_op")
