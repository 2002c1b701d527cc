"""Exact bounds on a share of changed answers, and how many samples they need. scipy's binomial test does the work."""

from __future__ import annotations

import math
from functools import lru_cache

from .errors import MissingDependency

__all__ = ["samples_needed", "smallest_epsilon", "upper_bound"]


@lru_cache(maxsize=4096)  # scipy takes some milliseconds, and searches ask for the same counts again and again
def upper_bound(changed: int, samples: int, delta: float) -> float:
    """Exact one-sided (Clopper-Pearson) upper bound of a share at confidence 1 - delta.

    Raises:
        MissingDependency: scipy is not installed.
    """
    try:
        from scipy.stats import binomtest
    except ImportError:
        raise MissingDependency.of("scipy", "eval") from None
    return float(binomtest(changed, samples, alternative="less").proportion_ci(1 - delta, "exact").high)


def smallest_epsilon(samples: int, delta: float) -> float:
    """The smallest share of changed answers that so many independent samples can certify: with none changed."""
    return upper_bound(0, samples, delta)


def samples_needed(epsilon: float, delta: float, changed: int = 0) -> int:
    """The smallest number of independent samples of which `changed` may change so that the bound is at most epsilon."""
    count = max(math.ceil(math.log(delta) / math.log1p(-epsilon)), changed + 1)  # (1 - epsilon) ** n <= delta
    while upper_bound(changed, count, delta) > epsilon:
        count += 1
    return count
