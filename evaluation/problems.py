"""What a validator says, and how it finds its way in records that may have any shape."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_STEP = re.compile(r"([^.\[\]]+)|\[(\d+|\*)\]")
_LONGEST_SHOWN = 80


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a record: where, by which rule, what was expected and what was found.

    `path` is written from the root as in per_prompt_results[0].nki.score; "" is the record itself.
    """

    path: str
    rule: str
    expected: str
    found: str

    def __str__(self) -> str:
        where = self.path or "the record"
        return f"{where}: {self.rule}: expected {self.expected}, found {self.found}"


def shown(value: Any) -> str:
    """Return a value as a message shows it: short, whatever it is."""
    if isinstance(value, dict):
        return f"an object of {len(value)} keys"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."


def lookup(record: Any, path: str) -> Any:
    """Return the value at a path, or None where the record has nothing there."""
    value = record
    for name, index in _STEP.findall(path):
        if name and isinstance(value, dict):
            value = value.get(name)
        elif index and isinstance(value, list) and int(index) < len(value):
            value = value[int(index)]
        else:
            return None
    return value


def number(record: Any, path: str) -> float | None:
    """Return the finite number at a path, or None where there is none (true and false are none)."""
    value = lookup(record, path)
    return value if is_number(value) and is_finite(value) else None


def is_number(value: Any) -> bool:
    """Say whether a JSON value is a number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_finite(value: float) -> bool:
    """Say whether a number is one that floating point can hold."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def numbers(record: Any, path: str) -> list[float] | None:
    """Return the list of numbers at a path; None unless there is one, not empty, all finite."""
    values = lookup(record, path)
    if not isinstance(values, list) or not values:
        return None
    sound = all(is_number(value) and is_finite(value) for value in values)
    return [float(value) for value in values] if sound else None


def members(record: Any, path: str) -> list[str]:
    """Return the paths of the elements of the list at `path`; none where there is no list."""
    values = lookup(record, path)
    count = len(values) if isinstance(values, list) else 0
    return [f"{path}[{index}]" for index in range(count)]


def expand(record: Any, pattern: str) -> Iterator[str]:
    """Yield the paths that a pattern with [*] stands for in this record."""
    head, star, tail = pattern.partition("[*]")
    if not star:
        yield pattern
        return
    for member in members(record, head):
        yield from expand(record, member + tail)


def is_deeper_than(record: Any, levels: int) -> bool:
    """Say whether a value nests objects and lists deeper than `levels`, without recursion."""
    layer = [record]
    for _ in range(levels + 1):
        layer = [
            child
            for value in layer
            if isinstance(value, (dict, list))
            for child in (value.values() if isinstance(value, dict) else value)
        ]
    return bool(layer)


def walk(record: Any) -> Iterator[tuple[str, Any]]:
    """Yield path and value of everything in a record, without recursion: any depth is safe."""
    waiting: list[tuple[str, Any]] = [("", record)]
    while waiting:
        path, value = waiting.pop()
        yield path, value
        if isinstance(value, dict):
            waiting += [(f"{path}.{key}" if path else f"{key}", v) for key, v in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{path}[{index}]", item) for index, item in enumerate(value)]
