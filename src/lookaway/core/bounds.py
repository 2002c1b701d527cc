"""Bounds on a share of changed answers (exact) and on a mean loss in [0, 1], and how many samples they need."""

from __future__ import annotations

import math
from functools import lru_cache

from .errors import MissingDependency

__all__ = [
    "allowed_changes", "mean_upper_bound", "samples_needed", "smallest_epsilon", "upper_bound", "what_can_be_shown",
]  # fmt: skip


@lru_cache(maxsize=4096)  # scipy takes some milliseconds, and searches ask for the same counts again and again
def upper_bound(changed: int, samples: int, delta: float) -> float:
    """Exact one-sided (Clopper-Pearson) upper bound of a share at confidence 1 - delta.

    Raises:
        MissingDependency: scipy is not installed.
    """
    if changed == 0:
        return float(1 - delta ** (1 / samples)) if samples else 1.0  # needs no scipy
    try:
        from scipy.stats import binomtest
    except ImportError:
        raise MissingDependency.of("scipy", "eval") from None
    return float(binomtest(changed, samples, alternative="less").proportion_ci(1 - delta, "exact").high)


@lru_cache(maxsize=4096)
def mean_upper_bound(total: float, samples: int, delta: float) -> float:
    """Upper bound at confidence 1 - delta of the mean of losses in [0, 1], of which `samples` sum up to `total`.

    Hoeffding-Bentkus (Bates et al., Distribution-Free, Risk-Controlling Prediction Sets, arXiv 2101.02703, section
    3.1): the largest mean a at which min(exp(-n h(min(R, a), a)), e P(Binomial(n, a) <= ceil(n R))) is above delta,
    with R the observed mean and h(x, a) = x log(x / a) + (1 - x) log((1 - x) / (1 - a)).

    Raises:
        MissingDependency: scipy is not installed.
    """
    try:
        from scipy.optimize import brentq
        from scipy.special import xlog1py, xlogy
        from scipy.stats import binom
    except ImportError:
        raise MissingDependency.of("scipy", "eval") from None
    if not samples:
        return 1.0
    found = total / samples
    most = math.ceil(total - 1e-9)

    def over(mean: float) -> float:
        """log of the p-value of 'the mean is at least this' minus log(delta)."""
        x = min(found, mean)
        entropy = xlogy(x, x) - xlogy(x, mean) + xlog1py(1 - x, -x) - xlog1py(1 - x, -mean)
        return float(min(-samples * entropy, 1 + binom.logcdf(most, samples, mean))) - math.log(delta)

    if found >= 1 or over(1 - 1e-12) > 0:
        return 1.0
    return float(brentq(over, max(found, 1e-12), 1 - 1e-12, xtol=1e-9))


def smallest_epsilon(samples: int, delta: float) -> float:
    """The smallest share of changed answers that so many independent samples can certify: with none changed."""
    return upper_bound(0, samples, delta)


def samples_needed(epsilon: float, delta: float, changed: int = 0) -> int:
    """The smallest number of independent samples of which `changed` may change so that the bound is at most epsilon."""
    count = max(math.ceil(math.log(delta) / math.log1p(-epsilon)), changed + 1)  # (1 - epsilon) ** n <= delta
    while upper_bound(changed, count, delta) > epsilon:
        count += 1
    return count


def what_can_be_shown(samples: int, epsilon: float, delta: float) -> str:
    """In words and numbers: the smallest epsilon that so many independent samples can show, before any is looked at."""
    sure, needed = f"confidence {1 - delta:.0%}", samples_needed(epsilon, delta)
    if samples < 1:
        return f"nothing can be certified; {epsilon:.1%} at {sure} takes at least {needed} pictures"
    best = f"at {sure}, {samples} pictures can show at best {upper_bound(0, samples, delta):.2%} changed answers"
    if samples < needed:
        return f"{best}; {epsilon:.1%} takes at least {needed}"
    return f"{best}; {epsilon:.1%} is shown where at most {allowed_changes(samples, epsilon, delta)} of them change"


def allowed_changes(samples: int, epsilon: float, delta: float) -> int:
    """The most changed answers at which `upper_bound` is at most `epsilon`: P(Binomial(n, epsilon) <= k) <= delta."""
    chance, total, changed = (1 - epsilon) ** samples, 0.0, 0
    while total + chance <= delta and changed < samples:
        total += chance
        chance *= (samples - changed) / (changed + 1) * epsilon / (1 - epsilon)
        changed += 1
    return changed - 1
