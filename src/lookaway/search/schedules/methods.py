"""What a comparison at equal cost compares: searched schedules, unsearched shapes, and the field's baselines.

Everything is made for a budget in FLOPs on the calibration samples. Nothing here looks at a test sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ...core.errors import SettingsError
from ...policies.fixed import ExitAt
from ...policies.keep_schedule import KeepSchedule
from ..trials.queue import Done, TrialQueue
from ..trials.schedule_evaluator import ModelScheduleEvaluator
from . import schedule_shapes as schedule_shapes
from .budget import Budget, Schedule, solve
from .compare import Entry
from .g_search import Found
from .p_sigmoid import PSigmoidOptions, p_sigmoid
from .shape_search import latest_start, random_search

__all__ = ["METHODS", "entries_at", "exit_entry"]

METHODS = {
    "fixed-exit": "all visual tokens leave before the deepest layer that the budget allows (VTW's shape)",
    "fastv": "one reduction before layer 2, or the first that may keep less (FastV's shape)",
    "pyramiddrop": "three equal reductions at a quarter, half and three quarters of the depth (PyramidDrop's shape)",
    "linear": "a straight line, not searched",
    "logistic": "a sigmoid with k = 0.3, not searched",
    "random-tokens": "the logistic schedule, random tokens",
    "uniform-tokens": "the logistic schedule, evenly spaced tokens",
    "random-schedules": "the best of as many random staircases as P-Sigmoid has trials",
    "p-sigmoid": "P-Sigmoid, searched for this budget",
    "g-search": "G-Search's schedule at its tolerance, its rates raised to the power that meets the budget",
}


def entries_at(
    evaluator: ModelScheduleEvaluator,
    queue: TrialQueue,
    budget: Budget,
    methods: tuple[str, ...] = tuple(METHODS),
    sigmoid: PSigmoidOptions | None = None,
    greedy: Found | None = None,
    on_done: Callable[[Done], object] = lambda done: None,
) -> Iterator[Entry]:
    """The methods' entries for one budget; searching happens here, on the evaluator's samples.

    Args:
        greedy: what `g_search` found, for 'g-search' (it has no budget of its own, so one search serves all budgets).

    Raises:
        SettingsError: an unknown method.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise SettingsError(f"No method {unknown[0]!r} to compare; there are {', '.join(METHODS)}.")
    sigmoid = sigmoid or PSigmoidOptions()
    span, at = evaluator.span, f"@{budget.share:g}"
    plain = solve(schedule_shapes.logistic(span, 0.3), budget)

    def entry(method: str, schedule: Schedule, ranking: str = evaluator.ranking, trials: int = 0) -> Entry:
        policy = KeepSchedule(schedule.rates, ranking, evaluator.seed)
        return Entry(method, budget.share, policy, trials, schedule.rates)

    for method in methods:
        if method == "fixed-exit":
            yield exit_entry(budget)
        elif method == "fastv":
            yield entry(method, solve(schedule_shapes.single_layer(span, span.first), budget, fill=False))
        elif method == "pyramiddrop":
            yield entry(method, solve(schedule_shapes.multi_step(span, _stages(budget)), budget, fill=False))
        elif method == "linear":
            yield entry(method, solve(schedule_shapes.linear(span), budget))
        elif method in ("logistic", "random-tokens", "uniform-tokens"):
            yield entry(
                method, plain, {"random-tokens": "random", "uniform-tokens": "uniform"}.get(method, evaluator.ranking)
            )
        elif method == "random-schedules":
            found = random_search(evaluator, queue, budget, sigmoid.trials, on_done, f"random{at}")
            yield entry(method, found.schedule, trials=found.trials)
        elif method == "p-sigmoid":
            found = p_sigmoid(evaluator, queue, budget, sigmoid, on_done, f"p-sigmoid{at}")
            yield entry(method, found.schedule, trials=found.trials)
        elif greedy is not None:
            curve = schedule_shapes.rescaled(greedy.schedule.rates[span.first :])
            yield entry(method, solve(curve, budget, fill=False), trials=greedy.trials)


def exit_entry(budget: Budget) -> Entry:
    """A fixed exit costs whole layers, so it lies below the budget by up to one layer's image."""
    units, depth = budget.workload.units, budget.span.num_layers
    exits = [
        layer for layer in range(budget.span.first, depth + 1)
        if budget.allows([units if i < layer else 0 for i in budget.span.layers])
    ]  # fmt: skip
    layer = max(exits)
    rates = tuple(1.0 if i < layer else 0.0 for i in range(depth))
    return Entry("fixed-exit", budget.share, ExitAt(layer), 0, rates)


def _stages(budget: Budget) -> tuple[int, ...]:
    """PyramidDrop's layers, or as near to them as the budget allows."""
    span: Any = budget.span
    start = max(span.first, min(span.num_layers // 4, latest_start(budget)))
    width = max(1, (span.num_layers - start) // 3)
    return tuple(layer for layer in (start, start + width, start + 2 * width) if layer < span.num_layers)
