"""What an instruction costs on its engine: the published cycle formulas, as declared and evaluated.

One declaration yields the text of the documentation and the number in the account, so that they
cannot disagree. The formulas state the behaviour of trn1; what later platforms do faster, and what
surrounds an instruction on any platform, is the latency model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Any


@dataclass(frozen=True, slots=True)
class Cost:
    """One case of a cost.

    Attributes:
        formula: cycles of the executing engine, as an expression of N, the elements per partition
            of the instruction's work, and of the letters of its operands' axes.
        when: the condition in words; empty for the last case.
        holds: whether the condition is met.
    """

    formula: str
    when: str = ""
    holds: Callable[[Any], bool] | None = None


class Costs:
    """The cases of a cost, of which the first whose condition is met counts.

    Args:
        cases: a formula, or `Cost`s of which the last has no condition; none where an instruction
            occupies no engine that counts cycles.
        words: the text where no formula is published, or where a formula does not tell it; the
            cases are then what the latency model takes in its place.
    """

    __slots__ = ("cases", "words")

    def __init__(self, *cases: Cost | str, words: str = "") -> None:
        self.cases = tuple(Cost(one) if isinstance(one, str) else one for one in cases)
        self.words = words

    def __str__(self) -> str:
        if self.words:
            return self.words
        *special, general = self.cases
        return "; ".join([general.formula, *(f"{one.formula} {one.when}" for one in special)])

    def cycles(self, instruction: Any, names: Mapping[str, int]) -> float:
        """Cycles of an instruction whose axes have the sizes `names`."""
        for case in self.cases:
            if case.holds is None or case.holds(instruction):
                return float(eval(_compiled(case.formula), _BUILTINS, names))
        return 0.0


_BUILTINS = {"__builtins__": {}, "max": max, "min": min}


@lru_cache(maxsize=256)
def _compiled(formula: str) -> CodeType:
    return compile(formula, "<cost>", "eval")
