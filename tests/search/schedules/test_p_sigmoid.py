"""P-Sigmoid recovers the steepness of a known best schedule; random schedules get the same number of trials."""

import numpy as np
import pytest
from toy_evaluator import Near

from lookaway.core.errors import SettingsError
from lookaway.search.schedules import schedule_shapes as schedule_shapes
from lookaway.search.schedules.budget import Budget, solve
from lookaway.search.schedules.p_sigmoid import PSigmoidOptions, p_sigmoid
from lookaway.search.schedules.shape_search import FAMILIES, kernel_search, latest_start, random_search
from lookaway.search.trials.queue import TrialQueue

LAYERS, UNITS = 16, 400


def made_up(k, amplitude=1.0, share=0.5):
    """An evaluator that likes best the sigmoid of this steepness at the budget."""
    evaluator = Near([1.0] * LAYERS, UNITS)
    budget = Budget(share, "flops", evaluator.workload, evaluator.span)
    evaluator.rates = solve(schedule_shapes.logistic(evaluator.span, k, amplitude), budget).rates
    return evaluator, budget


@pytest.mark.parametrize("k", [0.25, 0.7])
def test_the_steepness_is_recovered(k):
    evaluator, budget = made_up(k)
    found = p_sigmoid(evaluator, TrialQueue("memory", "t"), budget, PSigmoidOptions(trials=14))
    assert found.details["params"]["k"] == pytest.approx(k, rel=0.1)
    assert found.verdict.effectiveness > 0.999
    assert found.trials == 14


def test_a_free_amplitude_is_recovered():
    evaluator, budget = made_up(0.4, 0.6, share=0.4)
    found = p_sigmoid(evaluator, TrialQueue("memory", "t"), budget, PSigmoidOptions(trials=22, amplitude="free"))
    assert np.abs(np.array(found.schedule.rates) - evaluator.rates).max() < 0.08


def test_every_trial_is_within_the_budget_and_none_far_below():
    evaluator, budget = made_up(0.3)
    queue = TrialQueue("memory", "t")
    p_sigmoid(evaluator, queue, budget, PSigmoidOptions(trials=6))
    random_search(evaluator, queue, budget, 6)
    for done in queue.log():
        assert 0.45 < done.details["flops_share"] <= 0.5
    assert len(queue.log()) == 12


def test_random_schedules_are_drawn_from_the_seed():
    evaluator, budget = made_up(0.3)
    first, again, other = (
        [done.details["counts"] for done in log]
        for log in (
            _random_log(evaluator, budget, 0),
            _random_log(evaluator, budget, 0),
            _random_log(evaluator, budget, 1),
        )
    )
    assert first == again
    assert first != other
    assert len({tuple(counts) for counts in first}) == 5


def _random_log(evaluator, budget, seed):
    queue = TrialQueue("memory", "t", seed)
    random_search(evaluator, queue, budget, 5)
    return queue.log()


@pytest.mark.parametrize("share", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_fits_every_budget(name, share):
    evaluator, _ = made_up(0.3)
    budget = Budget(share, "flops", evaluator.workload, evaluator.span)
    family = FAMILIES[name]
    low = {key: where.low for key, where in family.space(budget).items()}
    high = {key: where.high for key, where in family.space(budget).items()}
    found = kernel_search(evaluator, TrialQueue("memory", "t"), budget, family, name, [low, high], 2)
    assert 0 < found.verdict.flops_share <= share


def test_a_single_reduction_can_begin_no_later_than_the_budget_allows():
    evaluator, _ = made_up(0.3)
    budget = Budget(0.5, "flops", evaluator.workload, evaluator.span)
    last = latest_start(budget)
    solve(schedule_shapes.single_layer(evaluator.span, last), budget)
    with pytest.raises(SettingsError, match="too late"):
        solve(schedule_shapes.single_layer(evaluator.span, last + 1), budget)


@pytest.mark.parametrize("wrong", [{"trials": 0}, {"flattest": 2.0}, {"flattest": 0.0}])
def test_bad_options_are_named(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        PSigmoidOptions(**wrong)
