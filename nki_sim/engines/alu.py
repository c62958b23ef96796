"""What element-wise instructions share: applying operators to tiles and immediates."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..constants import Engine, NcVersion
from ..dtypes import FLOAT32, INTEGERS, Array, store, to_float32
from ..errors import IllegalProgram
from ..operators import OPS, Op
from ..views import NkiTensor
from .base import Rule, Sizes, require_platform


def write(dst: NkiTensor, values: Array) -> None:
    """Write `values` [partitions, free] to a window, rounding once."""
    target = dst.array
    store(target, values if values.shape == target.shape else values.reshape(target.shape))


def operand32(value: NkiTensor | float | None) -> Any:
    """An operand as fp32: an array [partitions, free] or a Python float; 0 for an unused one."""
    return value.rows32() if isinstance(value, NkiTensor) else float(value or 0)


def operand_bits(value: NkiTensor | float | None, like: Array) -> Any:
    """An operand of a bitwise operator: raw elements, or an immediate's bits in `like`'s type."""
    if isinstance(value, NkiTensor):
        return value.rows()
    return np.array(value or 0, np.int64).astype(like.dtype)


def apply(op: Op, left: Any, right: Any, reverse: bool) -> Array:
    """``op(left, right)``, or ``op(right, left)`` when reversed; comparisons and logic give 1.0 or
    0.0.
    """
    assert op.alu is not None
    if op.arity == 1:
        return np.asarray(op.alu(left))
    result = op.alu(right, left) if reverse else op.alu(left, right)
    return np.asarray(result)


def chain(op: Op, left: Any, right: Any, reverse: bool) -> Array:
    """`apply`, as fp32 for the next operator of a fused instruction."""
    return to_float32(apply(op, left, right, reverse))


def apply_into(dst: NkiTensor, op: Op, left: Any, right: Any, reverse: bool) -> None:
    """Write ``op(left, right)`` of fp32 operands to `dst`, without a temporary where that is exact.

    NumPy's functions allow an output that overlaps an input; an output that overlaps itself (a
    step of 0) takes the general path.
    """
    target = dst.array
    direct = target.dtype is FLOAT32 and target.ndim == 2 and 0 not in dst.strides
    if direct and isinstance(op.alu, np.ufunc) and op.arity == 2:
        first, second = (right, left) if reverse else (left, right)
        op.alu(first, second, out=target)
    else:
        write(dst, apply(op, left, right, reverse))


def require_op(operation: str, role: str, op: object, legal: tuple[Op, ...]) -> Op:
    """`op` when it is one of the legal operators."""
    if not isinstance(op, Op) or op not in legal:
        names = ", ".join(repr(one) for one in legal)
        raise IllegalProgram(operation, f"{role} must be one of {names}", repr(op))
    return op


def require_alu(operation: str, role: str, op: object, legal: tuple[Op, ...]) -> Op:
    """`op` when it is one of the legal ALU operators and the platform has it."""
    found = require_op(operation, role, op, legal)
    if _is_late(found):
        require_platform(operation, f"{role}={found!r}", found.alu_since)
    return found


def _bitwise_on_integers(instruction: Any, _: Sizes) -> str | None:
    if not instruction.is_bitwise():
        return None
    wrong = [
        f"{operand.name} {tensor}"
        for operand, tensor in instruction.tensors()
        if tensor.dtype not in INTEGERS
    ]
    return wrong[0] if wrong else None


BITWISE_ON_INTEGERS = Rule(
    "bitwise operators work on integer tensors",
    _bitwise_on_integers,
    "use an arithmetic or logical operator, or .view an integer type",
    "bit operators read raw bits",
)


def _is_late(op: Op) -> bool:
    return op.alu_since is not NcVersion.gen2


def _bitwise_on_vector(instruction: Any, _: Sizes) -> str | None:
    if instruction.engine is Engine.vector:
        return None
    late = any(op is not None and _is_late(op) for op in instruction.operators())
    return f"engine={instruction.engine!r}" if late or instruction.is_bitwise() else None


BITWISE_ON_VECTOR = Rule(
    "bitwise operators, and abs_max, abs_min, square and relu, run on the vector engine",
    _bitwise_on_vector,
    "leave the engine out",
    "ALU operator table",
)


_SLOW = (OPS["power"], OPS["rsqrt"])


def needs_gpsimd(*ops: Op | None) -> bool:
    """Whether an operator exists on GpSimd only."""
    return any(op in _SLOW for op in ops)


def _slow_elsewhere(instruction: Any, _: Sizes) -> str | None:
    if instruction.engine is Engine.gpsimd or not needs_gpsimd(*instruction.operators()):
        return None
    return f"engine={instruction.engine!r}"


SLOW_ON_GPSIMD = Rule(
    "power and rsqrt run on GpSimd, which does not reach PSUM",
    _slow_elsewhere,
    "leave the engine out, or use nisa.activation",
    "ALU operator table",
)


def reduce_free(op: Op, values: Array) -> Array:
    """Reduce [partitions, n] along the free dimension to [partitions, 1], in fp32 (or on bits)."""
    reducer: Any = op.alu
    return np.asarray(reducer.reduce(values, axis=1, keepdims=True))
