"""``nl.add(x, y)``, ``nl.exp(x)``, ``nl.where(...)``: operators called as functions."""

from __future__ import annotations

import math
from typing import Any

from ..dtypes import INTEGERS, TABLE
from ..engines import copies, scalar, vector
from ..errors import IllegalProgram
from ..operators import OPS, Op
from ..views import NkiTensor
from .common import FLOAT32, fresh, is_psum, promoted, result_type, tile

BINARY = frozenset(
    (
        "abs_max", "abs_min", "add", "bitwise_and", "bitwise_or", "bitwise_xor", "divide", "equal",
        "fmod", "greater", "greater_equal", "left_shift", "less", "less_equal", "logical_and",
        "logical_or", "logical_xor", "maximum", "minimum", "mod", "multiply", "not_equal", "power",
        "right_shift", "subtract",
    )
)  # fmt: skip
"""Operators that are functions of two operands."""

TOKENS = frozenset(("average", "bypass", "prelu"))
"""Operators that are only passed to instructions."""


def call(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NkiTensor:
    """What ``nl.<op>(...)`` returns: a new tile in SBUF.

    The parameters are (x, dtype=None) or (x, y, dtype=None).
    """
    names = parameters(op)
    if op.name in TOKENS:
        raise IllegalProgram(f"nl.{op.name}", "is an operator, not a function", "a call")
    given = dict(zip(names, args, strict=False))
    unknown = set(kwargs) - set(names) | set(kwargs) & set(given)
    given |= kwargs
    missing = [name for name in names[:-1] if name not in given]
    if unknown or missing or len(args) > len(names):
        raise IllegalProgram(
            f"nl.{op.name}", f"parameters are {', '.join(names)}", f"{args!r} {kwargs!r}"
        )
    dtype = given.get("dtype")
    if op.name in BINARY:
        return binary(op, given["x"], given["y"], dtype)
    return unary(op, given["x"], dtype)


def parameters(op: Op) -> tuple[str, ...]:
    """The parameters of an operator as a function."""
    return ("x", "y", "dtype") if op.name in BINARY else ("x", "dtype")


# -- two operands ----------------------------------------------------------------------------------


def binary(op: Op, x: Any, y: Any, dtype: Any = None) -> NkiTensor:
    """op(x, y) on tiles of one shape, or a tile and a number or column [P, 1]."""
    _check_operands(op, x, y)
    types = [t.dtype for t in (x, y) if isinstance(t, NkiTensor)]
    kind = result_type(op.name, dtype, promoted(types[0], types[-1]))
    if op.name == "divide":
        return _divide(x, y, kind)
    if op.name in ("mod", "fmod"):
        return _remainder(op, x, y, kind)
    return _combine(op, x, y, kind)


def _combine(op: Op, x: Any, y: Any, kind: str) -> NkiTensor:
    """One tensor_tensor or tensor_scalar."""
    if _is_whole(x, y) and _is_whole(y, x):
        if is_psum(x) and is_psum(y):
            y = copied(y, y.dtype)
        made = fresh(x.shape, kind)
        vector.TensorTensor(made, x, y, op).issue()
        return made
    reverse = not _is_whole(x, y)
    data, other = (y, x) if reverse else (x, y)
    made = fresh(data.shape, kind)
    vector.TensorScalar(made, data, op, _column(op, other), reverse).issue()
    return made


def _column(op: Op, other: Any) -> Any:
    """A column operand as tensor_scalar takes it: float32, unless on bits."""
    if isinstance(other, NkiTensor):
        return other if op.bitwise or other.dtype == FLOAT32 else copied(other, FLOAT32)
    return other if op.bitwise else float(other)


def _is_whole(value: Any, other: Any) -> bool:
    """Whether a value is a tile that is not used as a column of the other one."""
    if not isinstance(value, NkiTensor):
        return False
    column = isinstance(other, NkiTensor) and value.free == 1 and other.free != 1
    return not column


def _check_operands(op: Op, x: Any, y: Any) -> None:
    tiles = [v for v in (x, y) if isinstance(v, NkiTensor)]
    for role, value in (("x", x), ("y", y)):
        if type(value) not in (int, float):
            tile(op.name, role, value)
    if not tiles:
        raise IllegalProgram(
            f"nl.{op.name}", "at least one operand is a tile", f"{x!r} and {y!r}", "use Python"
        )
    column = any(t.free == 1 for t in tiles)
    shapes = {t.shape for t in tiles}
    if len(shapes) == 2 and (not column or tiles[0].partitions != tiles[1].partitions):
        raise IllegalProgram(
            f"nl.{op.name}",
            "the operands have one shape, or one is a column (P, 1)",
            f"{x} and {y}",
            "nothing else is broadcast: use nl.broadcast_to",
        )


def _divide(x: Any, y: Any, kind: str) -> NkiTensor:
    """x times the reciprocal of y: no engine divides."""
    if not isinstance(y, NkiTensor):
        return _combine(OPS["multiply"], x, 1.0 / y if y else math.inf, kind)
    inverse = fresh(y.shape, FLOAT32)
    vector.Reciprocal(inverse, y).issue()
    return _combine(OPS["multiply"], x, inverse, kind)


def _remainder(op: Op, x: Any, y: Any, kind: str) -> NkiTensor:
    """x - y * floor(x / y), or with the quotient truncated towards zero (fmod)."""
    quotient = _divide(x, y, FLOAT32)
    whole = _rounded(quotient, "floor" if op.name == "mod" else "trunc")
    product = _combine(OPS["multiply"], whole, y, FLOAT32)
    return _combine(OPS["subtract"], x, product, kind)


# -- one operand -----------------------------------------------------------------------------------


def unary(op: Op, x: Any, dtype: Any = None) -> NkiTensor:
    """op(x) on a tile."""
    x = tile(op.name, "x", x)
    kind = result_type(op.name, dtype, x.dtype)
    if op.name == "copy":
        return copied(x, kind)
    if op.name in ("ceil", "floor", "trunc"):
        return copied(_rounded(x, op.name), kind)
    if op.name in ("cos", "tan"):
        return _shifted_sine(op, x, kind)
    made = fresh(x.shape, kind)
    if op.name == "negative":
        vector.TensorScalar(made, x, OPS["multiply"], -1.0).issue()
    elif op.name == "logical_not":
        vector.TensorScalar(made, x, OPS["logical_xor"], 1.0).issue()
    elif op.name == "reciprocal":
        vector.Reciprocal(made, x).issue()
    elif op.activation is None or op.name == "abs":
        vector.TensorScalar(made, x, op, 0 if op.bitwise else 0.0).issue()
    else:
        scalar.Activation(made, op, x).issue()
    return made


def copied(x: NkiTensor, kind: str) -> NkiTensor:
    """A new SBUF tile with the elements of `x`."""
    made = fresh(x.shape, kind)
    copies.TensorCopy(made, x).issue()
    return made


def _rounded(x: NkiTensor, how: str) -> NkiTensor:
    """floor, ceil or trunc in fp32: to the nearest int32 and a correction where that went too far.

    Exact for magnitudes below 2**31.
    """
    if TABLE[x.dtype].name in INTEGERS:
        return copied(x, FLOAT32)
    if how == "trunc":
        up = _rounded(x, "ceil")
        negative = _combine(OPS["less"], x, 0.0, FLOAT32)
        return where(negative, up, _rounded(x, "floor"))
    nearest = copied(copied(x, "int32"), FLOAT32)
    beyond = OPS["greater"] if how == "floor" else OPS["less"]
    back = OPS["subtract"] if how == "floor" else OPS["add"]
    correction = _combine(beyond, nearest, x, FLOAT32)
    return _combine(back, nearest, correction, FLOAT32)


def _shifted_sine(op: Op, x: NkiTensor, kind: str) -> NkiTensor:
    """cos, or tan as a quotient, from the sine's table with its argument brought into [-pi, pi]."""
    cosine = _sine(x, math.pi / 2, kind if op.name == "cos" else FLOAT32)
    if op.name == "cos":
        return cosine
    return _divide(_sine(x, 0.0, FLOAT32), cosine, kind)


def _sine(x: NkiTensor, shift: float, kind: str) -> NkiTensor:
    """sin(x + shift)."""
    moved = fresh(x.shape, FLOAT32)
    vector.TensorScalar(moved, x, OPS["add"], shift).issue()
    turns = fresh(x.shape, "int32")
    vector.TensorScalar(turns, moved, OPS["multiply"], 1.0 / (2.0 * math.pi)).issue()
    reduced, made = fresh(x.shape, FLOAT32), fresh(x.shape, kind)
    vector.ScalarTensorTensor(
        reduced, turns, OPS["multiply"], -2.0 * math.pi, OPS["add"], moved
    ).issue()
    bounded = fresh(x.shape, FLOAT32)
    vector.TensorScalar(
        bounded, reduced, OPS["minimum"], math.pi, False, OPS["maximum"], -math.pi
    ).issue()
    scalar.Activation(made, OPS["sin"], bounded).issue()
    return made


# -- selection -------------------------------------------------------------------------------------


def where(condition: Any, x: Any, y: Any, dtype: Any = None) -> NkiTensor:
    """x where `condition` is not zero, y elsewhere; x and y are tiles or numbers."""
    condition = tile("where", "condition", condition)
    types = [t.dtype for t in (x, y) if isinstance(t, NkiTensor)] or [condition.dtype]
    kind = result_type("where", dtype, promoted(types[0], types[-1]))
    for role, value in (("x", x), ("y", y)):
        if type(value) not in (int, float) and tile("where", role, value).shape != condition.shape:
            raise IllegalProgram(
                "nl.where", f"{role} has the condition's shape", f"{value} and {condition}"
            )
    chosen = fresh(condition.shape, "uint8")
    vector.TensorScalar(chosen, condition, OPS["not_equal"], 0.0).issue()
    made, source = _filled(condition, y, kind), _filled(condition, x, kind)
    copies.TensorCopyPredicated(made, source, chosen).issue()
    return made


def _filled(like: NkiTensor, value: Any, kind: str) -> NkiTensor:
    """A new tile with a tile's elements or a number."""
    if isinstance(value, NkiTensor):
        return copied(value, kind)
    made = fresh(like.shape, kind)
    copies.Memset(made, value).issue()
    return made
