"""Intervals and tests for paired results, clustered by image. Pure functions.

Questions about one image are no independent draws: where several are, whole images are what is sampled. Intervals of a
retention are wide enough where few answers differ, which a bootstrap's are not (docs/measuring.md has the coverages).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..core.errors import DataError, MissingDependency

__all__ = ["Estimate", "binomial_interval", "mcnemar", "paired_p", "retention", "samples_needed", "share_interval"]

PSEUDO = ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0))
"""With and without the policy: one question of each kind, counted with the weight one half."""


AT_ONCE = 20_000_000
"""Numbers that a permutation test holds at a time: all swaps of VQAv2's images would take gigabytes."""


class Estimate(NamedTuple):
    """A number with its interval."""

    value: float
    low: float
    high: float


def binomial_interval(successes: int, trials: int, confidence: float = 0.95) -> Estimate:
    """A share with its exact (Clopper-Pearson) two-sided interval; the trials are independent."""
    if trials < 1 or not 0 <= successes <= trials:
        raise DataError(f"A share needs 0 <= successes <= trials and a trial; got {successes} of {trials}.")
    found = _stats().binomtest(successes, trials).proportion_ci(confidence, "exact")
    return Estimate(successes / trials, float(found.low), float(found.high))


def share_interval(
    values: Sequence[float], images: Sequence[Hashable] | None = None, confidence: float = 0.95, most: float = 1.0
) -> Estimate:
    """The mean of values in [0, most] with its interval, clustered by image.

    Exact (Clopper-Pearson) where every question has an image of its own and each value is 0 or 1. Else the number of
    questions is first divided by the design effect, the ratio of the variance between images to that of independent
    questions (Korn and Graubard 1998), rounded down; where nothing varies it is the number of images.

    Args:
        values: one a question.
        images: of each question what names its image; None: each has its own.
        most: the largest value that there can be, such as 10 of CIDEr; values are taken as shares of it.
    """
    if most != 1.0:
        part = share_interval([value / most for value in values], images, confidence)
        return Estimate(*(most * end for end in part))
    x = _values(values)
    sums, sizes = _by_image(images, x, np.ones_like(x))
    count, value = len(x), float(x.mean())
    if len(sums) == count and set(x.tolist()) <= {0.0, 1.0}:
        return binomial_interval(int(x.sum()), count, confidence)
    effective = float(len(sums))
    if 0 < value < 1 and len(sums) > 1:
        between = len(sums) / (len(sums) - 1) * float(((sums - value * sizes) ** 2).sum()) / count**2
        effective = min(value * (1 - value) / between, float(count)) if between > 0 else float(count)
    trials = max(1, math.floor(effective))
    found = binomial_interval(round(value * trials), trials, confidence)
    return Estimate(value, min(value, found.low), max(value, found.high))


def retention(
    with_policy: Sequence[float],
    without: Sequence[float],
    images: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """Mean score with the policy / mean score without it, same questions; NaN where the model without it knows nothing.

    The interval is the ratio estimator's (Cochran, *Sampling Techniques*, ch. 6), its variance that between images,
    with Student's quantile and four pseudo-questions of weight one half, one of each kind of pair (Agresti and Min
    2005, for differences of paired shares). They keep the interval from vanishing where no or few answers differ.

    Args:
        with_policy, without: one score a question, in [0, 1] (or true and false).
        images: of each question what names its image; None: each has its own.
    """
    top, bottom = _values(with_policy), _values(without)
    if len(top) != len(bottom):
        raise DataError(f"Paired values must be as many; got {len(top)} and {len(bottom)}.")
    if bottom.sum() == 0:
        return Estimate(math.nan, math.nan, math.nan)
    value = float(top.sum() / bottom.sum())
    pairs = np.stack(_by_image(images, top, bottom), axis=1)
    weights = np.concatenate([np.ones(len(pairs)), np.full(len(PSEUDO), 0.5)])
    both = np.concatenate([pairs, np.asarray(PSEUDO)])
    above, below = weights @ both
    residuals = both[:, 0] - above / below * both[:, 1]
    total = weights.sum()
    error = math.sqrt(total / (total - 1) * float(weights @ residuals**2)) / below
    reach = float(_stats().t.ppf((1 + confidence) / 2, max(1, len(pairs) - 1))) * error
    middle = float(above / below)
    return Estimate(value, max(0.0, min(value, middle - reach)), max(value, middle + reach))


def mcnemar(with_policy: Sequence[bool], without: Sequence[bool]) -> float:
    """Exact McNemar p-value that both are right equally often: only questions on which they differ count."""
    pairs = list(zip(with_policy, without, strict=True))
    gained = sum(bool(a) and not b for a, b in pairs)
    lost = sum(bool(b) and not a for a, b in pairs)
    if gained + lost == 0:
        return 1.0
    return float(_stats().binomtest(gained, gained + lost, 0.5).pvalue)


def paired_p(
    with_policy: Sequence[float], without: Sequence[float], images: Sequence[Hashable] | None = None, seed: int = 0
) -> float:
    """p-value that the policy changes no score: McNemar's where it holds, else a paired permutation test by image.

    McNemar's exact test needs scores of 0 and 1 and one question an image. The permutation test swaps 'with' and
    'without' for whole images; it is exact up to 13 images that differ, and takes 9999 random swaps above.
    """
    top, bottom = _values(with_policy), _values(without)
    first, second = _by_image(images, top, bottom)
    if len(first) == len(top) and {*top.tolist(), *bottom.tolist()} <= {0.0, 1.0}:
        return mcnemar(top.tolist(), bottom.tolist())
    differ = first != second
    if differ.sum() < 2:  # nothing to swap; and both ways to swap one image are equally extreme
        return 1.0

    def change(a: Any, b: Any, axis: int = -1) -> Any:
        return np.sum(a - b, axis=axis)

    found = _stats().permutation_test(
        (first[differ], second[differ]), change, permutation_type="samples", vectorized=True, n_resamples=9999,
        batch=max(1, AT_ONCE // int(differ.sum())), rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def samples_needed(differing: float, drop: float = 0.01, power: float = 0.8, alpha: float = 0.05) -> int:
    """Independent questions that a paired test needs to see a drop of accuracy (Connor 1987).

    Args:
        differing: share of the questions of which only one of the two answers is right; at least `drop`.
        drop: accuracy without - accuracy with, that is to be seen with probability `power` at level `alpha`, two-sided.
    """
    if not 0 < drop < 1 or not 0 <= differing <= 1:
        raise DataError(f"A drop lies between 0 and 1, a share of differing answers too; got {drop} and {differing}.")
    share, normal = max(differing, drop), _stats().norm
    need = normal.ppf(1 - alpha / 2) * math.sqrt(share) + normal.ppf(power) * math.sqrt(share - drop**2)
    return math.ceil((need / drop) ** 2)


def _values(values: Sequence[float]) -> Any:
    found = np.asarray(values, dtype=float)
    if not len(found):
        raise DataError("There are no values, so there is no interval and no test.")
    return found


def _by_image(images: Sequence[Hashable] | None, *values: Any) -> tuple[Any, ...]:
    """Sums of the values over each image, in the order in which images first come."""
    if images is None:
        return values
    if len(images) != len(values[0]):
        raise DataError(f"There are {len(values[0])} values for {len(images)} images; one image belongs to each.")
    numbers: dict[Hashable, int] = {}
    place = [numbers.setdefault(image, len(numbers)) for image in images]
    return tuple(np.bincount(place, weights=value, minlength=len(numbers)) for value in values)


def _stats() -> Any:
    try:
        from scipy import stats
    except ImportError:
        raise MissingDependency.of("scipy", "eval") from None
    return stats
