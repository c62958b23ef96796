"""Intervals for small samples by the bootstrap, seeded: the same samples give the same interval.

A statistic is computed again on many samples drawn, with replacement, from the observed ones; the
middle 95 % of what comes out is its interval (the percentile method; B. Efron and R. J. Tibshirani,
An Introduction to the Bootstrap, 1993, chapter 13). It assumes that runs are exchangeable and says
nothing about what no run showed: an interval for the 99th percentile ends at the largest sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

RESAMPLES = 10_000
CONFIDENCE = 0.95
LEAST_SAMPLES = 5
"""Below this a bootstrap knows too few values to be called an interval."""


def resampled(samples: Sequence[float], *seed: int, resamples: int = RESAMPLES) -> Values:
    """Return [resamples, n] samples drawn with replacement from n; the seed may have parts.

    The generator is NumPy's legacy one, whose stream no later version changes (NEP 19).
    """
    values = np.asarray(samples, np.float64)
    chosen = np.random.RandomState(seed).randint(0, len(values), (resamples, len(values)))
    drawn: Values = values[chosen]
    return drawn


def interval(values: Values, confidence: float = CONFIDENCE) -> list[float]:
    """Return [low, high]: the middle share `confidence` of a statistic's resampled values."""
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(values, [tail, 100.0 - tail])
    return [float(low), float(high)]


def means(drawn: Values) -> Values:
    """Return the mean of each resample."""
    result: Values = drawn.mean(axis=1)
    return result


def p99s(drawn: Values) -> Values:
    """Return the 99th percentile of each resample, as the challenge computes it."""
    result: Values = np.percentile(drawn, 99, axis=1)
    return result


def tail(samples: int) -> dict[str, float]:
    """Return what the 99th percentile of so few samples is worth.

    weight_of_maximum: the interpolated percentile is this share of the largest sample and the rest
    of the second largest. probability_of_reaching_p99: that the largest of n independent runs lies
    at or above the true 99th percentile, 1 - 0.99^n: 18 % at n = 20, 95 % at n = 299.
    """
    position = 0.99 * (samples - 1)
    weight = max(0.0, position - (samples - 2)) if samples > 1 else 1.0
    return {
        "weight_of_maximum": weight,
        "probability_of_reaching_p99": 1.0 - 0.99**samples,
    }


def sign_test(wins: int, losses: int) -> float:
    """Return the two-sided p-value of a sign test; ties are left out by the caller."""
    pairs = wins + losses
    extreme = sum(comb(pairs, k) for k in range(max(wins, losses), pairs + 1))
    return float(min(1.0, 2.0 * extreme / 2.0**pairs))
