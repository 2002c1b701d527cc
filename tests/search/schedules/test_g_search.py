"""G-Search finds the schedule that enumeration finds, in both forms, and reports where 'more is better' fails."""

import itertools

import pytest
from toy_evaluator import Needs

from lookaway.core.errors import SettingsError
from lookaway.search.schedules.g_search import GSearchOptions, g_search
from lookaway.search.trials.queue import TrialQueue

NEEDS = (8, 8, 7, 5, 5, 1)


def cheapest(evaluator, tolerance):
    """By enumeration: the monotone schedule of least cost within the tolerance."""
    units, depth = evaluator.workload.units, len(evaluator.needs)
    found = [
        (units, units, *counts) for counts in itertools.product(range(units + 1), repeat=depth - 2)
        if list(counts) == sorted(counts, reverse=True) and evaluator.effect((units, units, *counts)) >= 1 - tolerance
    ]  # fmt: skip
    return min(found, key=evaluator.workload.share)


@pytest.mark.parametrize(
    "options",
    [
        GSearchOptions(tolerance=0.01),
        GSearchOptions(tolerance=0.01, sections=3, probes=0),
        GSearchOptions(form="bayes", efficiency_weight=0.2),
        GSearchOptions(form="bayes", tolerance=0.01, rounds=3),
    ],
    ids=["bisection", "sections", "bayes", "bayes, lambda searched"],
)
def test_the_best_schedule_is_found(options):
    evaluator = Needs(NEEDS)
    found = g_search(evaluator, TrialQueue("memory", "t"), options)
    assert found.schedule.counts == cheapest(evaluator, options.tolerance) == NEEDS
    assert found.verdict.effectiveness == 1.0
    assert found.not_monotone == ()


@pytest.mark.parametrize("form", ["bisection", "bayes"])
def test_the_best_of_many_counts_is_found_too(form):
    """65 counts a layer, of which a Gaussian process sees a handful."""
    needs = (64, 64, 45, 19)
    evaluator = Needs(needs, units=64, price=2 / 64)
    found = g_search(evaluator, TrialQueue("memory", "t"), GSearchOptions(form=form, efficiency_weight=0.3))
    assert found.schedule.counts == needs


@pytest.mark.parametrize("form", ["bisection", "bayes"])
def test_the_walk_goes_from_shallow_to_deep_and_settles_each_layer(form):
    evaluator = Needs(NEEDS)
    seen = []
    found = g_search(
        evaluator, TrialQueue("memory", "t"), GSearchOptions(form=form, efficiency_weight=0.2), seen.append
    )
    assert [layer for layer, _ in evaluator.settled] == [2, 3, 4, 5]
    assert all(prefix == NEEDS[:layer] for layer, prefix in evaluator.settled)
    for counts in evaluator.judged[:-1]:  # a trial holds its count to the end
        assert list(counts) == sorted(counts, reverse=True)
    assert found.trials == len(seen) == len({done.key for done in seen})


def test_with_a_stride_the_layers_between_hold():
    found = g_search(Needs(NEEDS), TrialQueue("memory", "t"), GSearchOptions(stride=2, tolerance=0.0))
    assert found.schedule.counts == (8, 8, 7, 7, 5, 5)


def test_the_tolerance_is_what_may_be_lost():
    evaluator = Needs(NEEDS, price=0.01)
    found = g_search(evaluator, TrialQueue("memory", "t"), GSearchOptions(tolerance=0.03))
    assert evaluator.workload.share(found.schedule.counts) < evaluator.workload.share(NEEDS)
    assert found.verdict.effectiveness >= 0.97


def test_bisection_needs_few_trials():
    evaluator = Needs((64,) * 2 + (40,) * 8, units=64)
    found = g_search(evaluator, TrialQueue("memory", "t"), GSearchOptions(tolerance=0.0, probes=0))
    assert found.schedule.counts[2:] == (40,) * 8
    assert found.trials <= 7 * 8


def test_what_contradicts_more_is_better_is_counted_listed_and_used():
    class Odd(Needs):
        def effect(self, counts):
            return 1.0 if min(counts[2:]) in (2, 8) or min(counts[2:]) >= 6 else 0.5

    evaluator = Odd((8,) * 4)
    found = g_search(evaluator, TrialQueue("memory", "t"), GSearchOptions(probes=1))
    turns = [pair for pair in found.not_monotone if pair.turns]
    assert turns
    assert all(pair.more > pair.less and pair.more_effect < pair.less_effect for pair in found.not_monotone)
    assert found.schedule.counts[2] == 2  # the probe below the rate that bisection came to


def test_where_nothing_is_good_enough_everything_is_kept():
    class Hopeless(Needs):
        def effect(self, counts):
            return 1.0 if min(counts) == 8 else 0.0

    for options in (GSearchOptions(), GSearchOptions(form="bayes", rounds=2)):
        found = g_search(Hopeless((8,) * 5), TrialQueue("memory", "t"), options)
        assert found.schedule.counts == (8,) * 5
        assert found.verdict.effectiveness == 1.0


def test_a_lambda_that_keeps_the_tolerance_may_not_be_among_those_tried():
    options = GSearchOptions(form="bayes", rounds=1, tolerance=0.0)
    found = g_search(Needs((8,) * 5, price=1e-6), TrialQueue("memory", "t"), options)
    assert found.schedule.counts == (8,) * 5
    assert "keeps everything" in found.notes[0]


@pytest.mark.parametrize(
    "wrong", [{"tolerance": 1.0}, {"stride": 0}, {"resolution": 0}, {"layer_trials": 3}, {"efficiency_weight": -1}]
)
def test_bad_options_are_named(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong)).replace("_", "-")):
        GSearchOptions(**wrong)
