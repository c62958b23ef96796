"""The challenge's rule on hand-made logits, one test per branch."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.accuracy import (
    CHALLENGE_DIVERGENCE_TOLERANCE,
    CHALLENGE_TOLERANCES,
    AccuracyError,
    AccuracyReport,
    compare_logits,
    fit_shift,
)

Row = list[float]
ALL = {"all": (0.0, 0.05)}


def compare(expected: list[Row], actual: list[Row], **arguments: object) -> AccuracyReport:
    """Compare rows of logits, the baseline's tokens being its argmax."""
    logits = np.array(expected, np.float32)
    tokens = np.argmax(logits, axis=1)
    settings = {"tolerance_map": ALL, **arguments}
    return compare_logits(tokens, logits, np.array(actual, np.float32), **settings)  # type: ignore[arg-type]


def rows(seed: int, positions: int = 3, vocabulary: int = 2000) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 4, (positions, vocabulary)).astype(np.float32)


def test_equal_logits_pass_without_error() -> None:
    logits = rows(1)
    tokens = np.argmax(logits, axis=1)
    report = compare_logits(tokens, logits, logits.copy())
    assert report.passed and report.tokens_equal == report.tokens_checked == 3
    assert report.max_abs_logit_error == 0.0 and report.divergences == []
    assert [result.top_k for result in report.top_k] == ["all", "1000", "50", "5"]
    assert all(result.fraction_of_tolerance < 1e-9 for result in report.top_k)
    ordered = np.sort(logits, axis=1)
    gaps = ordered[:, -1] - ordered[:, -2]
    assert report.smallest_baseline_gap == pytest.approx(gaps.min(), rel=1e-6)
    assert report.smallest_baseline_gap_position == int(np.argmin(gaps))


def test_the_tolerances_are_the_challenges() -> None:
    assert CHALLENGE_TOLERANCES == {
        "all": (1e-5, 0.05), "1000": (1e-5, 0.03), "50": (1e-5, 0.03), "5": (1e-5, 0.03),
    }  # fmt: skip
    assert CHALLENGE_DIVERGENCE_TOLERANCE == 0.001


def test_a_constant_shift_is_removed() -> None:
    expected = [[10.0, 2.0, -4.0, 1.0]]
    shifted = [[value + 7.0 for value in expected[0]]]
    report = compare(expected, shifted)
    assert report.passed
    assert report.max_abs_shift == pytest.approx(7.0)
    assert report.max_abs_logit_error == pytest.approx(7.0)
    assert report.top_k[0].worst_relative_error < 1e-6


def test_only_the_shift_is_removed_not_the_slope() -> None:
    report = compare([[10.0, 2.0, -4.0, 1.0]], [[20.0, 4.0, -8.0, 2.0]])
    assert report.max_abs_shift == pytest.approx(0.0, abs=1e-9)
    assert report.top_k[0].worst_relative_error == pytest.approx(1.0)
    assert not report.passed


def test_the_shift_is_the_least_squares_intercept() -> None:
    rng = np.random.default_rng(2)
    expected, actual = rng.normal(size=50), rng.normal(size=50)
    columns = np.vstack([expected, np.ones(50)]).T
    _, intercept = np.linalg.lstsq(columns, actual, rcond=None)[0]
    assert fit_shift(expected, actual) == pytest.approx(intercept)


def test_the_error_is_relative_to_the_largest_of_the_set() -> None:
    # The perturbation is chosen so that neither slope nor shift of the fit takes any of it.
    expected = [[8.0, -8.0, 4.0, -4.0]]
    actual = [[8.2, -8.2, 3.6, -3.6]]
    report = compare(expected, actual, tolerance_map={"all": (0.0, 0.05), "2": (0.0, 0.05)})
    assert report.top_k[0].worst_relative_error == pytest.approx(0.4 / 8, rel=1e-5)
    assert report.top_k[1].k == 2
    assert report.top_k[1].worst_relative_error == pytest.approx(0.4 / 8, rel=1e-5)


def test_tight_sets_can_fail_where_the_whole_passes() -> None:
    expected = [[5.0, 4.0, -100.0, -99.0]]
    actual = [[5.0, 4.5, -100.0, -99.0]]
    report = compare(expected, actual, tolerance_map={"all": (0.0, 0.05), "2": (0.0, 0.05)})
    whole, top = report.top_k
    assert whole.passed and not top.passed and not report.passed
    assert top.fraction_of_tolerance > 1 > whole.fraction_of_tolerance


def test_the_absolute_tolerance_is_granted_on_top() -> None:
    expected, actual = [[8.0, -8.0, 4.0, -4.0]], [[8.2, -8.2, 3.6, -3.6]]
    strict = compare(expected, actual, tolerance_map={"all": (0.0, 0.04)})
    lenient = compare(expected, actual, tolerance_map={"all": (0.1, 0.04)})
    assert not strict.passed and lenient.passed
    assert lenient.top_k[0].allowed_relative_error == pytest.approx(0.04 + 0.1 / 8)


def test_the_worst_position_is_found() -> None:
    base = [8.0, -8.0, 4.0, -4.0]
    worse = [8.0, -8.0, 4.2, -4.2]
    report = compare([base] * 3, [base, worse, base])
    assert report.top_k[0].worst_position == 1


def test_minus_infinity_is_dropped_on_either_side() -> None:
    infinite = float("-inf")
    report = compare([[infinite, 5.0, 1.0, 2.0]], [[3.0, 5.0, 1.0, infinite]])
    assert report.passed and report.entries_dropped == 2
    assert report.tokens_equal == 1


def test_token_ids_stay_those_of_the_vocabulary_when_entries_are_dropped() -> None:
    infinite = float("-inf")
    report = compare([[infinite, 5.0, 4.9999]], [[infinite, 4.9999, 5.0]])
    (divergence,) = report.divergences
    assert (divergence.expected_token, divergence.actual_token) == (1, 2)


def test_a_divergence_with_a_small_gap_is_tolerated() -> None:
    report = compare([[5.0, 4.9998, 0.0]], [[4.9998, 5.0, 0.0]])
    (divergence,) = report.divergences
    assert report.passed and divergence.within_tolerance and report.tokens_equal == 0
    assert divergence.gap == pytest.approx(0.0002, rel=1e-2)


def test_a_divergence_with_a_large_gap_fails() -> None:
    report = compare([[5.0, 4.99, 0.0]], [[4.99, 5.0, 0.0]])
    assert not report.passed and report.top_k[0].passed
    assert not report.divergences[0].within_tolerance


def test_the_gap_must_lie_below_the_tolerance() -> None:
    report = compare([[5.0, 4.0]], [[4.0, 4.5]], divergence_difference_tolerance=0.5)
    assert report.divergences[0].gap == 0.5 and not report.divergences[0].within_tolerance


def test_k_beyond_the_vocabulary_is_clipped_and_said() -> None:
    report = compare([[5.0, 4.0, 1.0]], [[5.0, 4.0, 1.0]], tolerance_map=CHALLENGE_TOLERANCES)
    clipped = {result.top_k: (result.k, result.clipped) for result in report.top_k}
    assert clipped == {"all": (3, False), "1000": (3, True), "50": (3, True), "5": (3, True)}


@pytest.mark.parametrize(
    ("expected", "actual", "problem"),
    [
        ([[1.0, 2.0]], [[1.0, float("nan")]], "candidate's logits hold nan at position 0, token 1"),
        ([[1.0, float("inf")]], [[1.0, 2.0]], "baseline's logits hold inf"),
        ([[1.0, 2.0]], [[1.0, 2.0, 3.0]], r"candidate logits \(1, 3\)"),
        ([[1.0, float("-inf")]], [[1.0, 2.0]], "fewer than two finite"),
        ([[0.0, 0.0]], [[0.0, 1.0]], "all zero"),
        ([[1.0, 2.0]], [[1.0, 2.0], [1.0, 2.0]], "logits"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    expected: list[Row], actual: list[Row], problem: str
) -> None:
    with pytest.raises(AccuracyError, match=problem):
        compare(expected, actual)


@pytest.mark.parametrize("token", [0, 7, -1])
def test_tokens_of_another_run_are_refused(token: int) -> None:
    logits = np.array([[1.0, 2.0]], np.float32)
    with pytest.raises(AccuracyError, match="different runs"):
        compare_logits(np.array([token]), logits, logits)


def test_no_tokens_are_refused() -> None:
    empty = np.zeros((0, 5), np.float32)
    with pytest.raises(AccuracyError, match="no token"):
        compare_logits(np.zeros(0, np.int64), empty, empty)


@pytest.mark.parametrize(
    "tolerances",
    [{}, {"five": (0.0, 0.1)}, {"0": (0.0, 0.1)}, {"5": (-1.0, 0.1)}, {"5": (0.0, 0.0)}],
)
def test_meaningless_tolerances_are_refused(tolerances: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(AccuracyError, match="tolerance map"):
        compare([[1.0, 2.0]], [[1.0, 2.0]], tolerance_map=tolerances)


def test_inputs_are_left_as_they_were() -> None:
    expected, actual = rows(3), rows(4)
    copies = expected.copy(), actual.copy()
    compare_logits(np.argmax(expected, axis=1), expected, actual)
    assert np.array_equal(expected, copies[0]) and np.array_equal(actual, copies[1])
