"""The bound on a mean loss: against its own definition, and on populations of graded losses."""

import math

import numpy as np
import pytest

from lookaway.core.bounds import mean_upper_bound, upper_bound


def p_value(found, mean, samples):
    """Hoeffding-Bentkus, written out from the paper's equations with sums in place of scipy's distribution."""
    x = min(found, mean)
    entropy = (x * math.log(x / mean) if x else 0.0) + (1 - x) * math.log((1 - x) / (1 - mean))
    most = math.ceil(samples * found - 1e-9)
    tail = sum(math.comb(samples, k) * mean**k * (1 - mean) ** (samples - k) for k in range(most + 1))
    return min(math.exp(-samples * entropy), math.e * tail)


@pytest.mark.parametrize(
    ("total", "samples", "delta"), [(0, 99, 0.05), (1.3, 160, 0.05), (7.25, 40, 0.1), (30, 60, 0.01)]
)
def test_the_bound_is_the_largest_mean_that_is_not_ruled_out(total, samples, delta):
    bound = mean_upper_bound(total, samples, delta)
    assert total / samples < bound < 1
    assert p_value(total / samples, bound - 1e-6, samples) > delta
    assert p_value(total / samples, bound + 1e-6, samples) <= delta


def test_without_any_loss_it_is_the_exact_bound_and_with_losses_of_0_and_1_it_is_wider():
    assert mean_upper_bound(0, 120, 0.05) == pytest.approx(upper_bound(0, 120, 0.05), abs=1e-7)
    for lost in (1, 3, 10):
        assert upper_bound(lost, 120, 0.05) < mean_upper_bound(lost, 120, 0.05)
    assert mean_upper_bound(50, 50, 0.05) == 1.0
    assert mean_upper_bound(0, 0, 0.05) == 1.0


def test_graded_losses_are_covered_as_often_as_stated_over_400_populations():
    draw, broken = np.random.default_rng(5), 0
    for _ in range(400):
        mean = draw.uniform(0.01, 0.3)
        losses = draw.beta(mean * 0.4, (1 - mean) * 0.4, 120)  # most are near 0 or near 1
        broken += mean_upper_bound(round(float(losses.sum()), 9), 120, 0.1) < mean
    assert broken <= 58  # 40 are allowed on average, three standard deviations more is 58
