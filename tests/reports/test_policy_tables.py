"""The data under the figures of a policy, against plain loops over the records."""

import numpy as np
import pytest
from made_up_run import DEPTH, FAMILIES

from lookaway.reports.collect import ReportData, collect
from lookaway.reports.formatting import search_words
from lookaway.reports.policy_tables import calibration_curve, good_shares, keep_grid, schedule_grid, trial_points
from lookaway.reports.published_curves import SCHEDULE, TAU, half_gone, over_depth


@pytest.fixture(scope="module")
def data(records):
    return collect(records)


def test_the_keep_map_is_the_mean_share_of_each_layer_and_family(data):
    grid = keep_grid(data, "gates")
    assert grid.rows == ["all", *sorted(FAMILIES)]
    for row, shares in zip(grid.rows, grid.shares, strict=True):
        own = [s for s in data.samples if row in ("all", s["family"])]
        for layer in range(DEPTH):
            seen = [1.0 if s["exit_layer"] is None or layer < s["exit_layer"] else 0.0 for s in own]
            assert shares[layer] == pytest.approx(sum(seen) / len(seen))


def test_samples_without_an_image_or_of_another_variant_do_not_count():
    def sample(counts, variant="v", family="a"):
        return {"variant": variant, "family": family, "visual_tokens": counts}

    data = ReportData(samples=[sample([10, 10, 2]), sample([0, 0, 0]), sample([20, 10, 0], family=None),
                               sample([10, 0, 0], variant="w")])  # fmt: skip
    grid = keep_grid(data, "v")
    assert grid.rows == ["all", "a"]
    np.testing.assert_allclose(grid.shares, [[1, 0.75, 0.1], [1, 1, 0.2]])
    assert keep_grid(data, "unknown").shares.size == 0


def test_schedules_of_searches_and_comparisons_are_ordered_by_budget(data):
    grid = schedule_grid(data)
    assert grid.rows == ["fastv, 30%", "g-search, 30%", "g-search, 40%"]  # neither the full model nor a fixed exit
    np.testing.assert_allclose(grid.shares[1], [1.0] * 10 + [0.2] * 20)
    np.testing.assert_allclose(grid.shares[2], [1.0] * 10 + [0.5] * 10 + [0.0] * 10)


def test_trials_are_those_with_an_effectiveness(data):
    points = trial_points(data)
    assert len(points) == 12
    assert sum(point.complete for point in points) == 9
    assert (points[4].cost, points[4].effectiveness) == pytest.approx((0.34, 0.92))


def test_the_calibration_curve_is_what_was_tested(data):
    curve = calibration_curve(data.calibrations[0])
    assert curve.thresholds == [0.99, 0.9, 0.83, 0.7]
    assert curve.changed == pytest.approx([0, 0.004, 0.006, 0.018])
    assert curve.bounds == pytest.approx([0.008, 0.012, 0.014, 0.026])
    assert curve.mean_exits == [25.0, 18.5, 14.0, 11.0]
    assert curve.chosen == 2
    assert calibration_curve(data.calibrations[0] | {"threshold": None}).chosen is None


def test_what_the_gates_were_taught_is_in_the_order_of_layers(data):
    assert good_shares(data.trainings[0]) == ([2, 4, 10], [0.25, 0.5, 0.8])


def test_a_published_curve_lies_on_the_axis_of_a_model_of_another_depth():
    assert over_depth([5, 6, 7], 9) == [0, 4, 8]
    assert half_gone([1, 0.9, 0.5, 0.4]) == 2
    assert half_gone([1, 0.9]) is None
    assert len(SCHEDULE) == 32
    assert list(SCHEDULE) == sorted(SCHEDULE, reverse=True)
    assert {len(values) for values in TAU.values()} == {31}


def test_a_search_is_told_beside_the_published_one(data):
    words = " ".join(search_words(data.searches[0]))
    assert "Half are gone at layer 10 of 30, with a mean of 50 % kept; G-Search's authors found layer 8 of 32" in words
