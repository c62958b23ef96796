"""The challenge's accuracy rule on logits, with margins.

The rule is the one of `logit_validation` in NxD Inference: both models see the same tokens (the
baseline's), and at each position the candidate's logits must lie near the baseline's within each
of several sets of most likely tokens. The vendor computes it in two ways which differ in one point:
an older one rounds the relative error to the digits of the tolerance first, so that 0.034 passes
at 0.03. Here nothing is rounded, so whoever passes here passes there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]

CHALLENGE_TOLERANCES: dict[str, tuple[float, float]] = {
    "all": (1e-5, 0.05),
    "1000": (1e-5, 0.03),
    "50": (1e-5, 0.03),
    "5": (1e-5, 0.03),
}
"""(absolute, relative) tolerance by number of most likely tokens, as the challenge sets them."""

CHALLENGE_DIVERGENCE_TOLERANCE = 0.001
"""Largest gap between the candidate's own choice and the baseline's choice, in logits."""


class AccuracyError(ValueError):
    """Logits that cannot be compared."""


@dataclass(frozen=True)
class TopKResult:
    """Worst error among the `k` most likely tokens over all positions.

    `top_k` is the key of the tolerance map ("all" or a number), `k` what was used: the vocabulary's
    size where top_k exceeds it (`clipped`). Relative means to max |expected| over the set, m. The
    rule demands (|actual - expected| - absolute tolerance) / m <= relative tolerance; here the
    absolute tolerance stands on the other side, so that the error is reported as it is:
    `worst_relative_error` = |actual - expected| / m, `allowed_relative_error` = relative tolerance
    + absolute tolerance / m, and `fraction_of_tolerance`, their quotient, is above 1 where the rule
    fails. All three are those of the position where the fraction is largest.
    """

    top_k: str
    k: int
    clipped: bool
    absolute_tolerance: float
    relative_tolerance: float
    worst_relative_error: float
    allowed_relative_error: float
    fraction_of_tolerance: float
    worst_position: int
    passed: bool


@dataclass(frozen=True)
class Divergence:
    """A position at which the two models choose different tokens; `gap` is in logits."""

    position: int
    expected_token: int
    actual_token: int
    gap: float
    within_tolerance: bool


@dataclass(frozen=True)
class AccuracyReport:
    """Outcome of the rule with its margins; errors and gaps are in logits unless relative."""

    passed: bool
    tokens_checked: int
    tokens_equal: int
    top_k: list[TopKResult]
    divergence_tolerance: float
    divergences: list[Divergence]
    smallest_baseline_gap: float
    smallest_baseline_gap_position: int
    max_abs_logit_error: float
    max_abs_shift: float
    entries_dropped: int
    vocabulary_size: int

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        return asdict(self)


@dataclass
class _Position:
    """What the rule finds at one position; `errors` are (relative error, allowed) by top-k."""

    errors: dict[str, tuple[float, float]] = field(default_factory=dict)
    shift: float = 0.0
    max_abs_error: float = 0.0
    baseline_gap: float = 0.0
    dropped: int = 0
    actual_token: int = 0
    divergence_gap: float = 0.0


def compare_logits(
    expected_tokens: NDArray[np.int64],
    expected_logits: Logits,
    actual_logits: Logits,
    tolerance_map: Mapping[str, tuple[float, float]] = CHALLENGE_TOLERANCES,
    divergence_difference_tolerance: float = CHALLENGE_DIVERGENCE_TOLERANCE,
) -> AccuracyReport:
    """Apply the challenge's rule to teacher-forced logits.

    `expected_logits` and `actual_logits` are [positions, vocabulary] from the baseline and from the
    candidate, the candidate having been fed `expected_tokens` [positions], the baseline's greedy
    choice. `tolerance_map` maps "all" or a count of most likely tokens to (absolute, relative).

    Raises AccuracyError for shapes that differ, NaN or +infinity, baseline tokens that are not the
    baseline's own greedy choice, and positions without two finite logits.
    """
    _check_inputs(expected_tokens, expected_logits, actual_logits)
    tolerances = _checked_tolerances(tolerance_map)
    expected = np.asarray(expected_logits, np.float64)
    actual = np.asarray(actual_logits, np.float64)
    positions = [
        _compare_position(index, expected[index], actual[index], int(token), tolerances)
        for index, token in enumerate(expected_tokens)
    ]
    divergences = _divergences(expected_tokens, positions, divergence_difference_tolerance)
    results = [
        _summarise_top_k(key, tolerances[key], positions, expected.shape[1]) for key in tolerances
    ]
    gaps = [position.baseline_gap for position in positions]
    return AccuracyReport(
        passed=all(r.passed for r in results) and all(d.within_tolerance for d in divergences),
        tokens_checked=len(positions),
        tokens_equal=len(positions) - len(divergences),
        top_k=results,
        divergence_tolerance=divergence_difference_tolerance,
        divergences=divergences,
        smallest_baseline_gap=min(gaps),
        smallest_baseline_gap_position=gaps.index(min(gaps)),
        max_abs_logit_error=max(position.max_abs_error for position in positions),
        max_abs_shift=max(abs(position.shift) for position in positions),
        entries_dropped=sum(position.dropped for position in positions),
        vocabulary_size=expected.shape[1],
    )


def fit_shift(expected: NDArray[np.float64], actual: NDArray[np.float64]) -> float:
    """Return the constant c of the least-squares line actual = slope * expected + c.

    The rule subtracts c from the candidate's logits, since a constant changes no choice of a token;
    the slope is fitted with it and stays.
    """
    centred = expected - expected.mean()
    variance = float(centred @ centred)
    slope = float(centred @ actual) / variance if variance > 0 else 0.0
    return float(actual.mean() - slope * expected.mean())


def _compare_position(
    index: int,
    expected: NDArray[np.float64],
    actual: NDArray[np.float64],
    expected_token: int,
    tolerances: Mapping[str, tuple[float, float]],
) -> _Position:
    kept = np.isfinite(expected) & np.isfinite(actual)
    if np.count_nonzero(kept) < 2 or not kept[expected_token]:
        raise AccuracyError(
            f"position {index}: fewer than two finite logits in common, or none for the baseline's "
            f"token {expected_token}: nothing to compare"
        )
    found = _Position(dropped=int(np.count_nonzero(~kept)))
    found.actual_token = int(np.argmax(np.where(kept, actual, -np.inf)))
    found.divergence_gap = float(actual[found.actual_token] - actual[expected_token])
    expected, actual = expected[kept], actual[kept]
    found.max_abs_error = float(np.max(np.abs(actual - expected)))
    found.shift = fit_shift(expected, actual)
    actual = actual - found.shift
    order = np.argsort(-expected, kind="stable")
    found.baseline_gap = float(expected[order[0]] - expected[order[1]])
    for key, (absolute, relative) in tolerances.items():
        chosen = order if key == "all" else order[: int(key)]
        largest = float(np.max(np.abs(expected[chosen])))
        if largest == 0.0:
            raise AccuracyError(f"position {index}: the baseline's logits are all zero")
        error = float(np.max(np.abs(actual[chosen] - expected[chosen])))
        found.errors[key] = (error / largest, relative + absolute / largest)
    return found


def _divergences(
    expected_tokens: NDArray[np.int64], positions: list[_Position], tolerance: float
) -> list[Divergence]:
    return [
        Divergence(
            position=index,
            expected_token=int(token),
            actual_token=found.actual_token,
            gap=found.divergence_gap,
            within_tolerance=found.divergence_gap < tolerance,
        )
        for index, (token, found) in enumerate(zip(expected_tokens, positions, strict=True))
        if int(token) != found.actual_token
    ]


def _summarise_top_k(
    key: str, tolerance: tuple[float, float], positions: list[_Position], vocabulary: int
) -> TopKResult:
    absolute, relative = tolerance
    fractions = [error / allowed for error, allowed in (p.errors[key] for p in positions)]
    worst = fractions.index(max(fractions))
    error, allowed = positions[worst].errors[key]
    wanted = vocabulary if key == "all" else int(key)
    return TopKResult(
        top_k=key,
        k=min(wanted, vocabulary),
        clipped=wanted > vocabulary,
        absolute_tolerance=absolute,
        relative_tolerance=relative,
        worst_relative_error=error,
        allowed_relative_error=allowed,
        fraction_of_tolerance=error / allowed,
        worst_position=worst,
        passed=error <= allowed,
    )


def _check_inputs(tokens: NDArray[np.int64], expected: Logits, actual: Logits) -> None:
    if expected.ndim != 2 or expected.shape != actual.shape or tokens.shape != expected.shape[:1]:
        raise AccuracyError(
            "expected tokens [N] and logits [N, vocabulary] of both models; received tokens "
            f"{tokens.shape}, baseline logits {expected.shape}, candidate logits {actual.shape}"
        )
    if not expected.size:
        raise AccuracyError("no token was generated: nothing to compare")
    for name, logits in (("baseline", expected), ("candidate", actual)):
        bad = np.argwhere(np.isnan(logits) | np.isposinf(logits))
        if bad.size:
            position, token = bad[0]
            raise AccuracyError(
                f"the {name}'s logits hold {logits[position, token]} at position {position}, "
                f"token {token} ({len(bad)} such values in all)"
            )
    for position, token in enumerate(tokens.tolist()):
        row = expected[position]
        if not 0 <= token < row.size or row[token] != row.max():
            raise AccuracyError(
                f"position {position}: the baseline's token is {token} but its largest logit "
                f"belongs to {int(np.argmax(row))}; tokens and logits are of different runs"
            )


def _checked_tolerances(
    tolerance_map: Mapping[str, tuple[float, float]],
) -> dict[str, tuple[float, float]]:
    checked: dict[str, tuple[float, float]] = {}
    for key, pair in tolerance_map.items():
        absolute, relative = (float(value) for value in pair)
        if key != "all" and not (key.isdecimal() and int(key) > 0):
            raise AccuracyError(f"tolerance map: the key {key!r} is neither 'all' nor a count")
        if not (0 <= absolute < np.inf and 0 < relative < np.inf):
            raise AccuracyError(
                f"tolerance map: {key}: expected an absolute tolerance >= 0 and a relative one "
                f"> 0, received {pair}"
            )
        checked[key] = (absolute, relative)
    if not checked:
        raise AccuracyError("tolerance map: empty, so nothing would be checked")
    return checked
