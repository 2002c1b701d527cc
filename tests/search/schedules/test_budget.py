"""Schedules cost what they may and not more: exact to one token, for every shape and both units."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_evaluator import SHAPE, workload

from lookaway.core.cost import DecoderShape, prefill_cost
from lookaway.core.errors import DataError, SettingsError
from lookaway.policies.ranked import count_of
from lookaway.search.schedules import schedule_shapes as schedule_shapes
from lookaway.search.schedules.budget import Budget, Workload, solve
from lookaway.search.schedules.schedule_shapes import Span

SPAN = Span(12)
CURVES = {
    "logistic": schedule_shapes.logistic(SPAN, 0.5),
    "flat logistic": schedule_shapes.logistic(SPAN, 0.02),
    "steep logistic": schedule_shapes.logistic(SPAN, 9.0),
    "low logistic": schedule_shapes.logistic(SPAN, 0.4, 0.3),
    "linear": schedule_shapes.linear(SPAN),
    "exponential": schedule_shapes.exponential(SPAN),
    "single-layer": schedule_shapes.single_layer(SPAN, 3),
    "multi-step": schedule_shapes.multi_step(SPAN, (3, 6, 9)),
    "random": schedule_shapes.random_steps(SPAN, 7),
    "rescaled": schedule_shapes.rescaled([1.0, 0.5, 0.5, 0.5, 0.2, 0.2, 0.2, 0.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("name", CURVES)
@given(st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_curves_go_from_nothing_to_everything_and_never_grow_with_depth(name, a, b):
    low, high = (np.array(CURVES[name](t)) for t in sorted((a, b)))
    for rates in (low, high):
        assert len(rates) == 10
        assert rates.min() >= 0
        assert rates.max() <= 1
        assert (np.diff(rates) <= 1e-12).all()
    assert (low <= high + 1e-12).all()
    first_step = {"single-layer": 1, "multi-step": 1}.get(name, 0)  # before its first step such a curve keeps all
    assert max(CURVES[name](0.0)[first_step:]) < 1e-9
    assert min(CURVES[name](1.0)) > 1 - 1e-6


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("unit", ["flops", "tokens"])
@pytest.mark.parametrize("share", [0.35, 0.5, 0.61, 0.9, 1.0])
def test_the_whole_budget_is_used_and_not_more(name, unit, share):
    loads = workload(12, (40, 40, 31), (5, 9, 7))
    budget = Budget(share, unit, loads, SPAN)
    for fill in (True, False):
        schedule = solve(CURVES[name], budget, fill)
        assert schedule.counts[:2] == (40, 40)
        assert list(schedule.counts) == sorted(schedule.counts, reverse=True)
        assert loads.share(schedule.counts, unit) <= share + 1e-12
    one_more = [
        counts for i in range(2, 12)
        if list(counts := [*schedule.counts[:i], schedule.counts[i] + 1, *schedule.counts[i + 1 :]])
        == sorted(counts, reverse=True) and counts[i] <= 40
    ]  # fmt: skip
    filled = solve(CURVES[name], budget)
    one_more = [[*filled.counts[:i], filled.counts[i] + 1, *filled.counts[i + 1 :]] for i in range(2, 12)
                if filled.counts[i] < filled.counts[i - 1]]  # fmt: skip
    assert all(loads.share(counts, unit) > share for counts in one_more)


@pytest.mark.parametrize("name", CURVES)
def test_in_tokens_the_budget_is_met_to_the_token(name):
    loads = workload(12, (40,))
    for share in (0.333, 0.5, 0.777):
        schedule = solve(CURVES[name], Budget(share, "tokens", loads, SPAN))
        assert sum(schedule.counts) == int(share * 12 * 40 + 1e-9)


def test_flat_runs_stay_flat_and_cost_the_budget_but_for_one_token_a_step():
    loads = workload(12, (40,))
    budget = Budget(0.6, "flops", loads, SPAN)
    schedule = solve(CURVES["single-layer"], budget, fill=False)
    kept = schedule.counts[3]
    assert schedule.counts == (40, 40, 40, *(kept,) * 9)
    assert loads.share((40, 40, 40, *(kept + 1,) * 9)) > 0.6


@given(st.floats(0.3, 1), st.sampled_from(list(CURVES)), st.sampled_from(["flops", "tokens"]))
@settings(max_examples=60, deadline=None)
def test_any_budget(share, name, unit):
    loads = workload(12, (17, 5), (2, 2))
    budget = Budget(share, unit, loads, SPAN)
    if not budget.allows([int(rate * loads.units + 1e-9) for rate in CURVES[name](0.0)]):
        with pytest.raises(SettingsError, match="begins to drop too late"):
            solve(CURVES[name], budget)
        return
    assert loads.share(solve(CURVES[name], budget).counts, unit) <= share + 1e-12


def test_the_cost_is_that_of_the_traces():
    """The table that budgets are solved on against `prefill_cost` of what a policy keeps, sample by sample."""
    shape = DecoderShape(num_layers=4, **SHAPE)
    visual, text = (9, 4, 9, 7), (3, 5, 2, 8)
    loads = Workload(shape, visual, text)
    counts = (9, 6, 5, 1)
    kept = [[count_of(c / 9, v) for v in visual] for c in counts]
    cost = prefill_cost(shape, [[k + t for k, t in zip(row, text, strict=True)] for row in kept], kept)
    assert loads.share(counts, "flops") == pytest.approx(cost.flops_share, abs=1e-12)
    assert loads.share(counts, "tokens") == pytest.approx(cost.visual_tokens / cost.full_visual_tokens, abs=1e-12)


def test_the_best_that_a_budget_allows_is_found_where_enumeration_says_so():
    """Among ALL schedules of a tiny model none keeps more tokens within the budget than the filled one."""
    loads = workload(5, (6,))
    span = Span(5)
    budget = Budget(0.55, "tokens", loads, span)
    best = max(
        sum(counts) for counts in itertools.product(range(7), repeat=3)
        if list(counts) == sorted(counts, reverse=True) and budget.allows(counts)
    )  # fmt: skip
    assert sum(solve(schedule_shapes.logistic(span, 0.5), budget).counts[2:]) == best


def test_bad_budgets_and_shapes_are_named():
    loads = workload(12, (40,), (5,))
    with pytest.raises(SettingsError, match=r"A budget of 10.0% of the prefill FLOPs is too low .* first 2 layers"):
        Budget(0.1, "flops", loads, SPAN)
    with pytest.raises(SettingsError, match=r"take 16.7% already. Give at least 0.167"):
        Budget(0.1, "tokens", loads, SPAN)
    for share in (0, 1.2, -1):
        with pytest.raises(SettingsError, match=r"in \(0, 1\]"):
            Budget(share, "flops", loads, SPAN)
    with pytest.raises(SettingsError, match="'flops' or 'tokens', not 'time'"):
        Budget(0.5, "time", loads, SPAN)
    with pytest.raises(SettingsError, match="12 layers, the workload for 6"):
        Budget(0.5, "flops", workload(6), SPAN)
    with pytest.raises(SettingsError, match="begins to drop too late"):
        solve(schedule_shapes.single_layer(SPAN, 11), Budget(0.5, "flops", loads, SPAN))
    with pytest.raises(SettingsError, match="must not grow with depth"):
        schedule_shapes.rescaled([0.5, 0.6])
    with pytest.raises(SettingsError, match="must lie in"):
        Span(4, 4)
    for wrong in (
        lambda: schedule_shapes.logistic(SPAN, 0),
        lambda: schedule_shapes.logistic(SPAN, 1, 1.5),
        lambda: schedule_shapes.multi_step(SPAN, (6, 3)),
        lambda: schedule_shapes.single_layer(SPAN, 1),
    ):
        with pytest.raises(SettingsError):
            wrong()
    with pytest.raises(DataError, match="samples with an image"):
        workload(4, ())


def test_random_schedules_differ_by_seed_and_repeat():
    first, second = (schedule_shapes.random_steps(SPAN, seed)(0.5) for seed in (1, 2))
    assert first != second
    assert first == schedule_shapes.random_steps(SPAN, 1)(0.5)


def test_the_published_curve_is_on_the_logistic():
    """The dashed line of the paper's first figure: 0.755 / (1 + e^(0.222 (i - 12.24))), i counted from 1."""
    span = Span(32)
    rates = [0.755 / (1 + np.exp(0.222 * (i + 1 - 12.24))) for i in span.layers]
    curve = schedule_shapes.logistic(span, 0.222, 0.755)
    gaps = [np.abs(np.array(curve(t)) - rates).max() for t in np.linspace(0, 0.5, 20001)]
    assert min(gaps) < 2e-3
