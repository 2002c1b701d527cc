"""Change points of curves whose change points are known; exact against trying all cuts; honest where there is none."""

from itertools import combinations

import numpy as np
import pytest

from lookaway.analysis.stages import best_cut, choose_parts, stage_table
from lookaway.core.errors import DataError

DEPTH = 24


def curves_with(changes, noise, seed=0, count=1):
    """[N, 3, L] piecewise constant curves: cross attention high, low, middle."""
    rng = np.random.default_rng(seed)
    levels = np.array([[2.0, 1.0, 1.5], [2.4, 0.4, 1.2], [0.5, 1.5, 1.0]])
    runs = np.diff([0, *changes, DEPTH])
    clean = np.repeat(levels[:, : len(runs)], runs, axis=1)
    return clean + noise * rng.standard_normal((count, 3, DEPTH))


def records_of(curves):
    names = ("visual_self", "cross", "text_self")
    return [{"flow": {"max": dict(zip(names, one.tolist(), strict=True))}} for one in curves]


def by_trying_all(curves, parts, shortest):
    best = None
    for changes in combinations(range(1, curves.shape[1]), parts - 1):
        runs = np.split(curves, changes, axis=1)
        if min(run.shape[1] for run in runs) >= shortest:
            distance = sum(((run - run.mean(1, keepdims=True)) ** 2).sum() for run in runs)
            if best is None or distance < best[1]:
                best = (changes, distance)
    return best


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
@pytest.mark.parametrize("shortest", [1, 2])
def test_the_cut_is_the_best_of_all(parts, shortest):
    curves = np.random.default_rng(parts).standard_normal((2, 11))
    found = best_cut(curves, parts, shortest)
    changes, distance = by_trying_all(curves, parts, shortest)
    assert found.changes == changes
    assert found.distance == pytest.approx(distance)


def test_known_change_points_are_found_with_their_intervals():
    table = stage_table(records_of(curves_with((3, 10), 0.15, count=12)))
    assert table["changes"] == [3, 10]
    assert [low <= at <= high for low, at, high in zip(table["low"], (3, 10), table["high"], strict=True)] == [True] * 2
    assert max(high - low for low, high in zip(table["low"], table["high"], strict=True)) <= 2
    assert table["parts"] == 3
    assert table["parts_share"]["3"] > 0.9
    assert (table["pattern"], table["pattern_share"]) == (True, 1.0)
    assert table["means"]["cross"] == pytest.approx([2.4, 0.4, 1.2], abs=0.1)


def test_clean_curves_and_flat_curves():
    assert choose_parts(curves_with((3, 10), 0.0)[0]) == 3
    assert choose_parts(curves_with((8,), 0.0)[0]) == 2
    assert choose_parts(np.ones((3, DEPTH))) == 1
    flat = stage_table(records_of(np.ones((4, 3, DEPTH))))
    assert (flat["parts"], flat["pattern"]) == (1, False)


def test_noise_makes_intervals_wide_and_stages_are_not_claimed():
    table = stage_table(records_of(curves_with((), 1.0, count=6)))
    assert table["parts"] < 3
    assert sum(high - low for low, high in zip(table["low"], table["high"], strict=True)) > 4


def test_the_same_records_give_the_same_answer():
    records = records_of(curves_with((4, 12), 0.5, count=5))
    assert stage_table(records) == stage_table(records)


def test_too_few_layers():
    assert stage_table(records_of(np.ones((2, 3, 5)))) is None
    with pytest.raises(DataError, match="5 layers cannot be cut into 3 runs of at least 2"):
        best_cut(np.ones((1, 5)), 3, 2)
