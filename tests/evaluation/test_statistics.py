"""Intervals and tests against textbook values, against scipy's resampling, and against simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from lookaway.core.errors import DataError
from lookaway.evaluation.statistics import (
    binomial_interval,
    mcnemar,
    paired_p,
    retention,
    samples_needed,
    share_interval,
)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.30850), (10, 10, 0.69150, 1.0), (8, 10, 0.44390, 0.97479), (50, 100, 0.39832, 0.60168)],
)
def test_clopper_pearson_textbook_values(successes, trials, low, high):
    found = binomial_interval(successes, trials)
    assert found.value == successes / trials
    assert found[1:] == pytest.approx((low, high), abs=1e-4)
    assert share_interval([1] * successes + [0] * (trials - successes)) == pytest.approx(found)


def draws(rng, images, each, together, p, keep, gain):
    """Right without and with the policy [images, each]; `together`: chance that a question shares its image's luck."""

    def uniform():
        return np.where(rng.random((images, each)) < together, rng.random((images, 1)), rng.random((images, each)))

    without, luck = uniform() < p, uniform()
    return without, np.where(without, luck < keep, luck < gain)


@pytest.mark.parametrize(
    ("images", "each", "together", "p", "keep", "gain"),
    [
        (29, 1, 0, 0.7, 0.9, 0.1),
        (29, 1, 0, 0.7, 0.98, 0.05),
        (200, 1, 0, 0.7, 0.995, 0.005),
        (29, 4, 0.7, 0.7, 0.95, 0.05),
    ],
)
def test_the_interval_of_a_retention_covers_what_it_says(images, each, together, p, keep, gain):
    """Also with few images or few answers that differ, where a bootstrap covers .34 to .92 (docs/measuring.md)."""
    rng, names = np.random.default_rng(0), [i for i in range(images) for _ in range(each)]
    true, covered = (p * keep + (1 - p) * gain) / p, []
    for _ in range(400):
        without, with_policy = draws(rng, images, each, together, p, keep, gain)
        found = retention(with_policy.ravel(), without.ravel(), names)
        covered.append(found.low <= true <= found.high)
    assert np.mean(covered) >= 0.92


def test_with_many_images_the_interval_is_that_of_scipys_bootstrap_over_images():
    rng, each, images = np.random.default_rng(1), 3, 800
    without, with_policy = draws(rng, images, each, 0.6, 0.7, 0.9, 0.15)
    names = [i for i in range(images) for _ in range(each)]
    found = retention(with_policy.ravel(), without.ravel(), names)
    boot = stats.bootstrap(
        (with_policy.sum(1), without.sum(1)), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, method="BCa",
        vectorized=True, n_resamples=4000, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert found[1:] == pytest.approx((boot.low, boot.high), abs=0.003)
    alone = retention(with_policy.ravel(), without.ravel())
    assert alone.high - alone.low < 0.9 * (found.high - found.low)  # questions of an image tell less than they seem to


def test_retention_is_paired_and_never_certain():
    without = [True] * 80 + [False] * 20
    same = retention(without, without)
    assert same.value == 1.0
    assert 0.97 < same.low < 1 < same.high < 1.03
    worse = retention([True] * 72 + [False] * 28, without)
    assert worse.value == pytest.approx(0.9)
    assert 0.8 < worse.low < 0.9 < worse.high < 0.98
    assert retention([0.3, 1.0], [0.6, 1.0]).value == pytest.approx(1.3 / 1.6)  # soft scores


def test_a_model_that_knows_nothing_has_no_retention():
    assert math.isnan(retention([True, False], [False, False]).value)


def test_a_share_over_images_counts_what_is_independent():
    spread = share_interval([1, 0] * 50, [i // 2 for i in range(100)])  # each image half right: no variance between
    assert spread == binomial_interval(50, 100)
    whole = share_interval([1, 1, 0, 0] * 25, [i // 2 for i in range(100)])  # an image is right or wrong as a whole
    fewer = binomial_interval(24, 49)
    assert whole.value == 0.5
    assert (whole.high - whole.low) == pytest.approx(fewer.high - fewer.low, abs=0.01)
    assert share_interval([1] * 40, [i // 4 for i in range(40)]).low == pytest.approx(binomial_interval(10, 10).low)


def test_the_interval_of_a_share_over_images_covers_what_it_says():
    rng, covered = np.random.default_rng(0), []
    for _ in range(300):
        right, _ = draws(rng, 40, 4, 0.7, 0.8, 1, 1)
        found = share_interval(right.ravel(), [i for i in range(40) for _ in range(4)])
        covered.append(found.low <= 0.8 <= found.high)
    assert np.mean(covered) >= 0.93


def test_mcnemar_counts_only_disagreements():
    assert mcnemar([True] * 10, [True] * 10) == 1.0
    lost = [True] * 8 + [False] * 92, [False] * 8 + [False] * 92
    assert mcnemar(*lost) == pytest.approx(2 * 0.5**8)
    assert paired_p(*lost) == pytest.approx(2 * 0.5**8)


def test_the_permutation_test_is_the_count_over_all_swaps_of_images():
    rng = np.random.default_rng(3)
    scores, base = rng.integers(0, 4, 16) / 3, rng.integers(0, 4, 16) / 3
    names = [i // 2 for i in range(16)]
    change = (scores - base).reshape(8, 2).sum(1)
    swaps = np.array(list(itertools.product((1, -1), repeat=8))) @ change
    exact = 2 * min((swaps >= change.sum() - 1e-9).mean(), (swaps <= change.sum() + 1e-9).mean())
    assert paired_p(scores, base, names) == pytest.approx(min(1.0, exact))
    assert paired_p(base, base, names) == 1.0
    assert paired_p([1, 1, 0], [0, 1, 0], ["a", "a", "b"]) == 1.0  # one image alone shows nothing


def test_questions_of_one_image_are_one_piece_of_evidence():
    lost, base = [0] * 12 + [1] * 12, [1] * 24
    assert paired_p(lost, base) < 0.001
    assert paired_p(lost, base, [i // 6 for i in range(24)]) == pytest.approx(0.5)  # two images of four


@pytest.mark.parametrize(("differing", "drop"), [(0.05, 0.03), (0.2, 0.08)])
def test_samples_needed_gives_the_power_it_says(differing, drop):
    count = samples_needed(differing, drop)
    rng = np.random.default_rng(0)
    lost, gained = (differing + drop) / 2, (differing - drop) / 2
    seen = 0
    for _ in range(400):
        a, b, _same = rng.multinomial(count, [lost, gained, 1 - differing])
        z = (a - b) / math.sqrt(a + b) if a + b else 0.0  # McNemar's test without the exact one's caution
        seen += z > stats.norm.ppf(0.975)
    assert seen / 400 == pytest.approx(0.8, abs=0.06)


def test_a_one_percent_drop_needs_hundreds_to_thousands():
    assert samples_needed(0.0) == samples_needed(0.01) == pytest.approx(783, abs=3)
    assert samples_needed(0.1) == pytest.approx(7847, abs=5)


def test_what_is_no_pair_or_no_share_is_refused():
    with pytest.raises(DataError, match="got 1 and 2"):
        retention([1], [1, 2])
    with pytest.raises(DataError, match="3 of 2"):
        binomial_interval(3, 2)
    with pytest.raises(DataError, match="no values"):
        share_interval([])
    with pytest.raises(DataError, match="2 values for 1 images"):
        share_interval([1, 0], ["a"])
    with pytest.raises(DataError, match="got 0 and"):
        samples_needed(0.1, 0)


def test_a_permutation_test_of_many_images_takes_no_more_memory_and_is_the_same(monkeypatch):
    """All 9999 swaps of ten thousand images at once were 1.6 GB, at the end of a run over VQAv2."""
    from lookaway.evaluation import statistics

    draw = np.random.default_rng(0)
    base = draw.integers(0, 2, 120).astype(float)
    scores = np.where(draw.random(120) < np.where(base == 1, 0.3, 0.15), 1 - base, base)
    names = [i // 2 for i in range(120)]
    whole = paired_p(scores, base, names)
    monkeypatch.setattr(statistics, "AT_ONCE", 5000)
    assert 0.01 < whole < 1
    assert paired_p(scores, base, names) == whole


def test_scores_of_captions_have_an_interval_in_their_own_range():
    """CIDEr goes to 10: its mean was refused as a share, at the end of a fit."""
    found = share_interval([2.5, 3.0, 2.0, 2.6], most=10.0)
    assert (found.value, 0 < found.low < found.value < found.high < 10) == (pytest.approx(2.525), True)
    share = share_interval([0.25, 0.3, 0.2, 0.26])
    assert found == pytest.approx([10 * end for end in share])
