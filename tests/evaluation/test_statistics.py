"""Intervals against textbook values and against simulation."""

import math

import numpy as np
import pytest

from lookaway.core.errors import DataError
from lookaway.evaluation.statistics import binomial_interval, bootstrap_ratio, mcnemar, retention


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.30850), (10, 10, 0.69150, 1.0), (8, 10, 0.44390, 0.97479), (50, 100, 0.39832, 0.60168)],
)
def test_clopper_pearson_textbook_values(successes, trials, low, high):
    found = binomial_interval(successes, trials)
    assert found.value == successes / trials
    assert found[1:] == pytest.approx((low, high), abs=1e-4)


def test_the_exact_interval_covers_at_least_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for p in (0.02, 0.3, 0.9):
        draws = rng.binomial(40, p, 400)
        covered = [low <= p <= high for _, low, high in (binomial_interval(int(k), 40, 0.9) for k in draws)]
        assert np.mean(covered) >= 0.87


def test_retention_is_paired():
    without = [True] * 80 + [False] * 20
    same = retention(without, without)
    assert same == (1.0, 1.0, 1.0)  # no spread: every resample pairs a sample with itself
    worse = retention([True] * 72 + [False] * 28, without)
    assert worse.value == pytest.approx(0.9)
    assert 0.8 < worse.low < 0.9 < worse.high < 0.97


def test_a_model_that_knows_nothing_has_no_retention():
    assert math.isnan(retention([True, False], [False, False]).value)


def test_bootstrap_is_seeded_and_checks_lengths():
    top, bottom = [1, 0, 1, 1], [1, 1, 1, 1]
    assert bootstrap_ratio(top, bottom, seed=3) == bootstrap_ratio(top, bottom, seed=3)
    with pytest.raises(DataError, match="got 1 and 2"):
        bootstrap_ratio([1], [1, 2])
    with pytest.raises(DataError, match="3 of 2"):
        binomial_interval(3, 2)


def test_mcnemar_counts_only_disagreements():
    assert mcnemar([True] * 10, [True] * 10) == 1.0
    lost = [True] * 8 + [False] * 92, [False] * 8 + [False] * 92
    assert mcnemar(*lost) == pytest.approx(2 * 0.5**8)
