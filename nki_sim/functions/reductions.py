"""``nl.sum`` and its relatives: reductions over the last free dimensions, and what uses them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..engines import scalar, vector
from ..nki._surface import vendor
from ..operators import OPS
from ..views import NkiTensor
from .common import FLOAT32, fresh, result_type, tile, trailing_axes
from .elementwise import copied

Axis = int | Sequence[int]


def _kept(x: NkiTensor, count: int, keepdims: bool) -> tuple[int, ...]:
    """The shape that remains; a tile keeps at least one free dimension."""
    if keepdims:
        return (*x.shape[: x.ndim - count], *(1,) * count)
    kept = x.shape[: x.ndim - count]
    return kept if len(kept) > 1 else (*kept, 1)


def _reduce(
    name: str, operator: str, x: NkiTensor, axis: Axis, dtype: object, keepdims: bool
) -> NkiTensor:
    """One tensor_reduce."""
    x = tile(name, "x", x)
    count = trailing_axes(name, x, axis)
    made = fresh(_kept(x, count, keepdims), result_type(name, dtype, x.dtype))
    axes = tuple(range(x.ndim - count, x.ndim))
    vector.TensorReduce(made, OPS[operator], x, axes).issue()
    return made


@vendor
def sum(x: NkiTensor, axis: Axis, dtype: str | None = None, keepdims: bool = False) -> NkiTensor:
    """The sum along the last free dimensions."""
    return _reduce("sum", "add", x, axis, dtype, keepdims)


@vendor
def prod(x: NkiTensor, axis: Axis, dtype: str | None = None, keepdims: bool = False) -> NkiTensor:
    """The product along the last free dimensions."""
    return _reduce("prod", "multiply", x, axis, dtype, keepdims)


@vendor
def max(x: NkiTensor, axis: Axis, dtype: str | None = None, keepdims: bool = False) -> NkiTensor:
    """The maximum along the last free dimensions."""
    return _reduce("max", "maximum", x, axis, dtype, keepdims)


@vendor
def min(x: NkiTensor, axis: Axis, dtype: str | None = None, keepdims: bool = False) -> NkiTensor:
    """The minimum along the last free dimensions."""
    return _reduce("min", "minimum", x, axis, dtype, keepdims)


@vendor
def all(x: NkiTensor, axis: Axis, dtype: str | None = None) -> NkiTensor:
    """1 where no element along the last free dimensions is zero, else 0."""
    return _reduce("all", "logical_and", x, axis, dtype, False)


@vendor
def mean(x: NkiTensor, axis: Axis, dtype: str | None = None, keepdims: bool = False) -> NkiTensor:
    """The mean along the last free dimensions, in fp32 until it is written."""
    return _mean("mean", x, axis, dtype, keepdims)


def _mean(name: str, x: NkiTensor, axis: Axis, dtype: object, keepdims: bool) -> NkiTensor:
    total = _reduce(name, "add", x, axis, FLOAT32, keepdims)
    made = fresh(total.shape, result_type(name, dtype, x.dtype))
    count = x.size // total.size
    vector.TensorScalar(made, total, OPS["multiply"], 1.0 / count).issue()
    return made


@vendor
def var(x: NkiTensor, axis: Axis, dtype: str | None = None, keepdims: bool = False) -> NkiTensor:
    """The population variance; reduced dimensions stay with size 1, whatever `keepdims` says."""
    centre = _mean("var", x, axis, FLOAT32, True)
    difference = fresh(x.shape, FLOAT32)
    vector.TensorTensor(difference, x, repeated(centre, x), OPS["subtract"]).issue()
    squares = fresh(x.shape, FLOAT32)
    vector.TensorTensor(squares, difference, difference, OPS["multiply"]).issue()
    return _mean("var", squares, axis, result_type("var", dtype, x.dtype), True)


def repeated(reduced: NkiTensor, like: NkiTensor) -> NkiTensor:
    """A result with kept dimensions as a window of the shape that was reduced."""
    view = reduced
    for dim, (size, wanted) in enumerate(zip(reduced.shape, like.shape, strict=True)):
        if size != wanted:
            view = view.broadcast(dim, wanted)
    return view


@vendor
def softmax(x: NkiTensor, axis: Axis = -1, dtype: str | None = None) -> NkiTensor:
    """exp(x - max) over its sum along the last free dimensions."""
    largest = _reduce("softmax", "maximum", x, axis, FLOAT32, True)
    shifted, powers = fresh(x.shape, FLOAT32), fresh(x.shape, FLOAT32)
    vector.TensorTensor(shifted, x, repeated(largest, x), OPS["subtract"]).issue()
    scalar.Activation(powers, OPS["exp"], shifted).issue()
    total = _reduce("softmax", "add", powers, axis, FLOAT32, True)
    inverse = fresh(total.shape, FLOAT32)
    vector.Reciprocal(inverse, total).issue()
    made = fresh(x.shape, result_type("softmax", dtype, x.dtype))
    vector.TensorTensor(made, powers, repeated(inverse, x), OPS["multiply"]).issue()
    return made


@vendor
def rms_norm(
    x: NkiTensor,
    w: NkiTensor,
    axis: Axis,
    n: int,
    epsilon: float = 1e-6,
    dtype: str | None = None,
    compute_dtype: str | None = None,
) -> NkiTensor:
    """x / sqrt(sum(x * x) / n + epsilon) * w.

    Args:
        x: a tile.
        w: weights, of x's shape.
        axis: the last free dimensions, along which the root mean square is taken.
        n: how many values that is the mean of.
        epsilon: added to the mean.
        dtype: of the result; x's by default.
        compute_dtype: of the tiles in between; float32 by default.
    """
    kind = result_type("rms_norm", compute_dtype, FLOAT32)
    x, w = tile("rms_norm", "x", x), tile("rms_norm", "w", w)
    squares = fresh(x.shape, kind)
    scalar.Activation(squares, OPS["square"], x).issue()
    total = _reduce("rms_norm", "add", squares, axis, FLOAT32, True)
    root = fresh(total.shape, FLOAT32)
    vector.TensorScalar(
        root, total, OPS["multiply"], 1.0 / n if n else math.inf, False, OPS["add"], float(epsilon)
    ).issue()
    scalar.Activation(root, OPS["rsqrt"], root).issue()
    scaled = fresh(x.shape, kind)
    vector.TensorTensor(scaled, x, repeated(root, x), OPS["multiply"]).issue()
    made = fresh(x.shape, result_type("rms_norm", dtype, x.dtype))
    weights = copied(w, kind) if w.shape != x.shape else w
    vector.TensorTensor(made, scaled, weights, OPS["multiply"]).issue()
    return made
