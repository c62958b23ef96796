"""What something costs: its time in the model's scenarios, what it moves and multiplies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nki_sim.latency import Range

ZERO = Range(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Cost:
    """The cost of a part of a graph.

    Attributes:
        time_us: until its results are there.
        hbm_us: of the nominal time, how long HBM moves its bytes; None where that is not known.
        hbm_bytes, macs: what it moves, and its multiply-accumulates.
        elements: what the vector, scalar and GpSimd engines process.
        launches: of kernels.
    """

    time_us: Range
    hbm_us: float | None = None
    hbm_bytes: float = 0.0
    macs: float = 0.0
    elements: float = 0.0
    launches: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return self._with(other, self.time_us + other.time_us, 1)

    def __sub__(self, other: Cost) -> Cost:
        return self._with(other, self.time_us - other.time_us, -1)

    def __mul__(self, factor: float) -> Cost:
        return Cost(
            self.time_us * factor,
            None if self.hbm_us is None else self.hbm_us * factor,
            self.hbm_bytes * factor,
            self.macs * factor,
            self.elements * factor,
            self.launches * factor,
        )

    def _with(self, other: Cost, time_us: Range, sign: int) -> Cost:
        known = self.hbm_us is not None and other.hbm_us is not None
        return Cost(
            time_us,
            (self.hbm_us or 0.0) + sign * (other.hbm_us or 0.0) if known else None,
            self.hbm_bytes + sign * other.hbm_bytes,
            self.macs + sign * other.macs,
            self.elements + sign * other.elements,
            self.launches + sign * other.launches,
        )


@dataclass(frozen=True)
class Term:
    """A part of a step with a name, and what it is."""

    name: str
    what: str
    cost: Cost

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {
            "name": self.name,
            "what": self.what,
            "time_us": self.cost.time_us.as_dict(),
        }
        if self.cost.hbm_us is not None:
            found |= {"hbm_us": self.cost.hbm_us, "hbm_bytes": round(self.cost.hbm_bytes)}
            found |= {"macs": round(self.cost.macs), "launches": round(self.cost.launches)}
        return found


def extrapolated(short: Cost, long: Cost, few: int, many: int, count: int) -> Cost:
    """The cost of `count` repetitions, from those of `few` and of `many`."""
    return short + (long - short) * ((count - few) / (many - few))


def total(terms: list[Term]) -> Range:
    """The sum of all terms, which follow each other."""
    result = ZERO
    for term in terms:
        result = result + term.cost.time_us
    return result
