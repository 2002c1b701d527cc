"""Intervals and tests for paired results: exact where that is cheap, bootstrapped where not. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..core.errors import DataError, MissingDependency

__all__ = ["Estimate", "binomial_interval", "bootstrap_ratio", "mcnemar", "retention"]


class Estimate(NamedTuple):
    """A number with its interval."""

    value: float
    low: float
    high: float


def binomial_interval(successes: int, trials: int, confidence: float = 0.95) -> Estimate:
    """A share with its exact (Clopper-Pearson) two-sided interval."""
    if trials < 1 or not 0 <= successes <= trials:
        raise DataError(f"A share needs 0 <= successes <= trials and a trial; got {successes} of {trials}.")
    beta = _beta()
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, trials - successes)) if successes < trials else 1.0
    return Estimate(successes / trials, low, high)


def bootstrap_ratio(
    numerator: Sequence[float], denominator: Sequence[float], confidence: float = 0.95, draws: int = 2000, seed: int = 0
) -> Estimate:
    """Ratio of two means over the SAME samples, with the paired bootstrap's percentile interval."""
    top, bottom = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    if len(top) != len(bottom) or not len(top):
        raise DataError(f"Paired values must be as many, and some; got {len(top)} and {len(bottom)}.")
    if bottom.sum() == 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    chosen = np.random.default_rng(seed).integers(0, len(top), (draws, len(top)))
    below = bottom[chosen].sum(1)
    ratios = top[chosen].sum(1)[below > 0] / below[below > 0]
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(ratios, [tail, 100 - tail])
    return Estimate(float(top.sum() / bottom.sum()), float(low), float(high))


def retention(
    with_policy: Sequence[bool], without: Sequence[bool], confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Accuracy with the policy / accuracy without it, same samples; NaN where the model without it knows nothing."""
    return bootstrap_ratio([float(v) for v in with_policy], [float(v) for v in without], confidence, seed=seed)


def mcnemar(with_policy: Sequence[bool], without: Sequence[bool]) -> float:
    """Exact McNemar p-value that both are right equally often: only samples on which they differ count."""
    pairs = list(zip(with_policy, without, strict=True))
    gained = sum(a and not b for a, b in pairs)
    lost = sum(b and not a for a, b in pairs)
    if gained + lost == 0:
        return 1.0
    try:
        from scipy.stats import binomtest
    except ImportError:
        raise MissingDependency.of("scipy", "eval") from None
    return float(binomtest(gained, gained + lost, 0.5).pvalue)


def _beta():
    try:
        from scipy.stats import beta
    except ImportError:
        raise MissingDependency.of("scipy", "eval") from None
    return beta
