"""Numbers that remember which values of the record they were computed from.

A `Real` or `Whole` behaves as the float or int that it is. What +, -, * and / make of one is again
one, whose `how` holds the operation; max, min, sum and sorted keep them, and `count` stands for
len. Whatever else is done to one (float, round, a formula of NumPy) yields a plain number, and the
trace ends there.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator
from typing import Any

How = str | tuple[str, Any, Any]
"""A key of the record, or (operation, left, right) of numbers, or (words, keys, None)."""

_LONG_SUM = 4
_NEUTRAL = {"+": 0, "*": 1}


def _plain(value: Any) -> int | float:
    return int(value) if isinstance(value, int) else float(value)


def _method(symbol: str, function: Callable[[Any, Any], Any], *, reflected: bool = False) -> Any:
    def method(self: Number, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        if not isinstance(other, Number) and other == _NEUTRAL.get(symbol):
            return self
        left, right = (other, self) if reflected else (self, other)
        return traced(function(_plain(left), _plain(right)), (symbol, left, right))

    return method


class Number:
    """What `Real` and `Whole` have beyond float and int."""

    how: How

    __add__ = _method("+", operator.add)
    __radd__ = _method("+", operator.add, reflected=True)
    __sub__ = _method("-", operator.sub)
    __rsub__ = _method("-", operator.sub, reflected=True)
    __mul__ = _method("*", operator.mul)
    __rmul__ = _method("*", operator.mul, reflected=True)
    __truediv__ = _method("/", operator.truediv)
    __rtruediv__ = _method("/", operator.truediv, reflected=True)


class Real(Number, float):
    """A float with its origin."""


class Whole(Number, int):
    """An int with its origin."""


def traced(value: int | float, how: How) -> Real | Whole:
    """Return `value` with its origin."""
    number = Whole(value) if isinstance(value, int) else Real(value)
    number.how = how
    return number


def real(value: float) -> float:
    """Return a number as a float with the same origin."""
    return traced(float(value), value.how) if isinstance(value, Number) else float(value)


def constant(value: float, name: str) -> float:
    """Return a number that the code sets, with its name in the code; it has no key."""
    return traced(value, (name, [], None))


def count(items: Collection[Any]) -> int | float:
    """Return how many items there are, with their keys; of a list of the record, with its key."""
    own = getattr(items, "path", None)
    below = [own] if own else [item.path for item in items if getattr(item, "path", "")]
    return (
        traced(len(items), (f"number of {', '.join(below)}", below, None)) if below else len(items)
    )


def how(value: Any) -> str:
    """Return how a number was computed, in keys of the record; "" for a plain number."""
    return _text(value.how) if isinstance(value, Number) else ""


def keys(value: Any) -> list[str]:
    """Return the keys of the record that a number was computed from, each once."""
    return list(dict.fromkeys(_keys(value)))


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, Number):
        if isinstance(value.how, str):
            yield value.how
        elif value.how[2] is None:
            yield from value.how[1]
        else:
            yield from _keys(value.how[1])
            yield from _keys(value.how[2])


def _text(found: How) -> str:
    if isinstance(found, str):
        return found
    symbol, left, right = found
    if right is None:
        return symbol
    if symbol == "+":
        terms = [*_terms(left), *_terms(right)]
        if len(terms) > _LONG_SUM:
            return f"{_operand(terms[0])} + … + {_operand(terms[-1])} ({len(terms)} terms)"
        return " + ".join(map(_operand, terms))
    return f"{_operand(left)} {symbol} {_operand(right)}"


def _terms(value: Any) -> list[Any]:
    """Return the summands of a number that is a sum, else the number itself."""
    if isinstance(value, Number) and isinstance(value.how, tuple) and value.how[0] == "+":
        return [*_terms(value.how[1]), *_terms(value.how[2])]
    return [value]


def _operand(value: Any) -> str:
    if not isinstance(value, Number):
        return f"{value:g}"
    text = _text(value.how)
    return text if isinstance(value.how, str) else f"({text})"
