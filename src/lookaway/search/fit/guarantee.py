"""What a certificate bounds, and by which bound: the share of changed answers, or the fall of the task's score."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp

import numpy as np
from numpy.typing import NDArray

from ...core.bounds import mean_upper_bound, upper_bound
from .choices import Choice
from .options import Metric

__all__ = ["Guarantee", "allowed", "samples_at_share", "samples_needed"]


@dataclass(frozen=True)
class Guarantee:
    """With confidence 1 - delta the mean loss is at most epsilon.

    The loss of a sample lies in [0, 1]. For `answers` it is 1 where the answer differs from the full model's. For
    `score` it is how far the sample's score falls below the full model's, 0 where it does not: a gain on one sample
    does not make up for a loss on another, so what is bounded is at least the fall of the mean score.
    """

    epsilon: float
    delta: float
    metric: Metric = "answers"
    binary: bool = True
    """A loss is 0 or 1, known from the scorer and not from the data: then the exact binomial bound holds."""

    @property
    def method(self) -> str:
        """The bound, in words."""
        if self.binary:
            return "exact binomial (Clopper-Pearson, one-sided)"
        return "Hoeffding-Bentkus (arXiv 2101.02703)"

    def losses(self, choice: Choice) -> NDArray[np.float64]:
        """float64 [N]."""
        if self.metric == "answers":
            return (~choice.same).astype(np.float64)
        assert choice.loss is not None
        return choice.loss

    def total(self, choice: Choice) -> float:
        """The sum of the losses, rounded so that equal sums compare equal."""
        return round(float(self.losses(choice).sum()), 9)

    def bound(self, choice: Choice) -> float:
        """Upper bound of the mean loss at confidence 1 - delta."""
        return self.of_total(self.total(choice), len(choice.same))

    def of_total(self, total: float, samples: int) -> float:
        """The same where so many samples lost `total` together."""
        if self.binary:
            return upper_bound(round(total), samples, self.delta)
        return mean_upper_bound(total, samples, self.delta)

    def hopeless(self, choice: Choice) -> bool:
        """These samples already show, with confidence 1 - delta, that the mean loss is above epsilon."""
        total, samples = self.total(choice), len(choice.same)
        if self.binary:
            from scipy.stats import binomtest

            return bool(binomtest(round(total), samples, self.epsilon, alternative="greater").pvalue < self.delta)
        above = total / samples - self.epsilon
        return above > 0 and exp(-2 * samples * above**2) < self.delta  # Hoeffding

    def looks_kept(self, choice: Choice) -> bool:
        """The mean loss on these samples is at most epsilon; no bound, only what they look like."""
        return self.total(choice) <= self.epsilon * len(choice.same)


def samples_needed(guarantee: Guarantee, total: float) -> int:
    """The smallest number of samples whose bound is at most epsilon where they lose `total` together."""
    low, high = max(1, int(total)), max(2, int(total) + 1)
    while guarantee.of_total(total, high) > guarantee.epsilon:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if guarantee.of_total(total, middle) <= guarantee.epsilon else (middle, high)
    return high


def samples_at_share(guarantee: Guarantee, share: float) -> int | None:
    """How many samples show epsilon where this share of them is lost, however many they are; None: no number does,
    since so much is lost already."""
    if share >= guarantee.epsilon:
        return None

    def shown(samples: int) -> bool:
        total = share * samples
        return guarantee.of_total(ceil(total - 1e-9) if guarantee.binary else total, samples) <= guarantee.epsilon

    low, high = 1, 2
    while not shown(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high


def allowed(guarantee: Guarantee, samples: int) -> int:
    """The most samples that may lose 1 each so that the bound is at most epsilon; -1: not even none."""
    count = -1
    while count < samples and guarantee.of_total(count + 1, samples) <= guarantee.epsilon:
        count += 1
    return count
