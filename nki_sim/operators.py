"""The operators that instructions apply: one token per name of nki.language, with its two possible
readings.

An operator is an ALU function (of one or two operands, computed in fp32 or on raw bits) or an
activation function (one operand, from the scalar engine's tables) or both. Activation functions are
computed exactly in fp32; the hardware's piecewise polynomials differ by an amount that no document
states.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .constants import NcVersion
from .dtypes import Array

if TYPE_CHECKING:
    from .views import NkiTensor

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """An operator token (``nl.add``); calling it is the vendor's experimental tensor function.

    Attributes:
        name: as in nki.language.
        alu: ALU function of `arity` arrays, or None.
        arity: operands of the ALU function.
        bitwise: the ALU function works on the bits of integers.
        reduces: legal as a reduction.
        activation: scalar-engine function of one array, or None.
        alu_since: the first platform whose ALUs have it.
    """

    name: str
    alu: Function | None = None
    arity: int = 2
    bitwise: bool = False
    reduces: bool = False
    activation: Function | None = None
    alu_since: NcVersion = NcVersion.gen2

    def __repr__(self) -> str:
        return f"nl.{self.name}"

    def __call__(self, *args: Any, **kwargs: Any) -> NkiTensor:
        from .functions.elementwise import call  # imports this module

        return call(self, args, kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        from .functions.elementwise import parameters  # imports this module

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        names = parameters(self)
        defaults = {names[-1]: None}
        return inspect.Signature(
            [
                inspect.Parameter(n, kind, default=defaults.get(n, inspect.Parameter.empty))
                for n in names
            ]
        )


def _sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


_python_erf = np.frompyfunc(math.erf, 1, 1)


def _erf(x: Array) -> Array:
    return np.asarray(_python_erf(x), np.float32).reshape(x.shape)


def _gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + _erf(x * np.float32(math.sqrt(0.5))))


def _gelu_dx(x: Array) -> Array:
    density = np.exp(-0.5 * x * x) * np.float32(1 / math.sqrt(2 * math.pi))
    return 0.5 * (1.0 + _erf(x * np.float32(math.sqrt(0.5)))) + x * density


def _gelu_tanh(x: Array) -> Array:
    return (
        0.5 * x * (1.0 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (x + 0.044715 * x * x * x)))
    )


def _gelu_sigmoid(x: Array) -> Array:
    return x * _sigmoid(1.702 * x)


def _gelu_sigmoid_dx(x: Array) -> Array:
    s = _sigmoid(1.702 * x)
    return s + 1.702 * x * s * (1.0 - s)


def _silu(x: Array) -> Array:
    return x * _sigmoid(x)


def _silu_dx(x: Array) -> Array:
    s = _sigmoid(x)
    return s * (1.0 + x * (1.0 - s))


def _softplus(x: Array) -> Array:
    return np.logaddexp(x, np.float32(0))


def _mish(x: Array) -> Array:
    return x * np.tanh(_softplus(x))


def _erf_dx(x: Array) -> Array:
    return np.float32(2 / math.sqrt(math.pi)) * np.exp(-x * x)


def _sin(x: Array) -> Array:
    """Sine on [-pi, pi]; outside it the table extrapolates its last cubic (sin(9) is 27.65)."""
    beyond = np.abs(x) - np.float32(math.pi)
    cubic = np.sign(x) * (beyond * beyond * beyond / 6.0 - beyond)
    return np.where(beyond > 0, cubic, np.sin(x))


def _rsqrt(x: Array) -> Array:
    return 1.0 / np.sqrt(x)


def _copy(x: Array) -> Array:
    return x


def _relu(x: Array) -> Array:
    return np.asarray(np.maximum(x, np.float32(0)))


def prelu(x: Array, slope: Any) -> Array:
    """Parametric ReLU: x where it is positive, else slope * x."""
    return np.where(x > 0, x, x * slope)


def _abs_max(a: Array, b: Array) -> Array:
    return np.asarray(np.maximum(np.abs(a), np.abs(b)))


def _abs_min(a: Array, b: Array) -> Array:
    return np.asarray(np.minimum(np.abs(a), np.abs(b)))


def _left_shift(a: Array, b: Array) -> Array:
    return np.left_shift(a, b).astype(a.dtype)


def _right_shift(a: Array, b: Array) -> Array:
    """Logical: zeros come in from the left, whatever the sign."""
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    return np.right_shift(a.view(unsigned), np.asarray(b).astype(unsigned)).view(a.dtype)


_INSTRUCTION_OPS = (
    Op("add", np.add, reduces=True),
    Op("subtract", np.subtract, reduces=True),
    Op("multiply", np.multiply, reduces=True),
    Op("maximum", np.maximum, reduces=True),
    Op("minimum", np.minimum, reduces=True),
    Op("equal", np.equal),
    Op("not_equal", np.not_equal),
    Op("greater", np.greater),
    Op("greater_equal", np.greater_equal),
    Op("less", np.less),
    Op("less_equal", np.less_equal),
    Op("logical_and", np.logical_and, reduces=True),
    Op("logical_or", np.logical_or, reduces=True),
    Op("logical_xor", np.logical_xor, reduces=True),
    Op("bitwise_and", np.bitwise_and, bitwise=True, reduces=True),
    Op("bitwise_or", np.bitwise_or, bitwise=True, reduces=True),
    Op("bitwise_xor", np.bitwise_xor, bitwise=True, reduces=True),
    Op("left_shift", _left_shift, bitwise=True),
    Op("right_shift", _right_shift, bitwise=True),
    Op("invert", np.invert, arity=1, bitwise=True),
    Op("power", np.power),
    Op("abs", np.abs, arity=1, activation=np.abs),
    Op("rsqrt", _rsqrt, arity=1, activation=_rsqrt),
    Op("reciprocal", np.reciprocal, arity=1, activation=np.reciprocal),
    Op("square", np.square, arity=1, activation=np.square, alu_since=NcVersion.gen4),
    Op("relu", _relu, arity=1, activation=_relu, alu_since=NcVersion.gen4),
    Op("abs_max", _abs_max, alu_since=NcVersion.gen4),
    Op("abs_min", _abs_min, alu_since=NcVersion.gen4),
    Op("copy", activation=_copy),
    Op("sigmoid", activation=_sigmoid),
    Op("gelu", activation=_gelu),
    Op("gelu_dx", activation=_gelu_dx),
    Op("gelu_apprx_tanh", activation=_gelu_tanh),
    Op("gelu_apprx_sigmoid", activation=_gelu_sigmoid),
    Op("gelu_apprx_sigmoid_dx", activation=_gelu_sigmoid_dx),
    Op("silu", activation=_silu),
    Op("silu_dx", activation=_silu_dx),
    Op("tanh", activation=np.tanh),
    Op("softplus", activation=_softplus),
    Op("mish", activation=_mish),
    Op("erf", activation=_erf),
    Op("erf_dx", activation=_erf_dx),
    Op("exp", activation=np.exp),
    Op("log", activation=np.log),
    Op("sin", activation=_sin),
    Op("arctan", activation=np.arctan),
    Op("sqrt", activation=np.sqrt),
    Op("sign", activation=np.sign),
)
_HELPER_OPS = (
    "ceil", "cos", "divide", "floor", "fmod", "logical_not", "mod", "negative", "tan", "trunc",
)  # fmt: skip
"""Tensor helpers of nki.language that no instruction takes."""

_OWN_OPS = ("average", "bypass", "prelu")
"""Each known to one instruction, which computes it."""

OPS: dict[str, Op] = {
    **{op.name: op for op in _INSTRUCTION_OPS},
    **{name: Op(name) for name in (*_HELPER_OPS, *_OWN_OPS)},
}
"""Every operator token of nki.language."""

ALU_BINARY = tuple(op for op in OPS.values() if op.alu is not None and op.arity == 2)
REDUCTIONS = tuple(op for op in OPS.values() if op.reduces)
ACTIVATIONS = tuple(op for op in OPS.values() if op.activation is not None)
COMPARISONS = tuple(
    OPS[n] for n in ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")
)
