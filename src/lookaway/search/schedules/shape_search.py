"""Searches within a budget: every trial is a schedule of one shape whose last parameter is solved so that it fits.

So no trial is wasted on what costs too much, and two methods at one budget cost the same. Shapes without a free
parameter are one trial; random schedules are as many as the search that they are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...core.errors import SettingsError
from ..trials.queue import Done, Job, Number, Range, TrialQueue
from ..trials.sampling import seed_of
from ..trials.schedule_evaluator import ScheduleEvaluator
from . import schedule_shapes as schedule_shapes
from .budget import Budget, Schedule, solve
from .g_search import Found
from .schedule_shapes import Curve, Span

__all__ = ["FAMILIES", "Family", "kernel_search", "latest_start", "random_search"]


@dataclass(frozen=True)
class Family:
    """One shape: its free parameters and its curve."""

    curve: Callable[[Span, Mapping[str, Number]], Curve]
    space: Callable[[Budget], dict[str, Range]] = field(default=lambda budget: {})
    fill: bool = True
    """Hand out what rounding leaves; False where flat runs should stay flat."""


def kernel_search(
    evaluator: ScheduleEvaluator,
    queue: TrialQueue,
    budget: Budget,
    family: Family,
    name: str,
    starts: Sequence[Mapping[str, Number]] = ({},),
    trials: int = 1,
    on_done: Callable[[Done], object] = lambda done: None,
) -> Found:
    """The best of `trials` schedules of one shape: those at `starts`, then what a Gaussian process suggests.

    Returns:
        The schedule of greatest effectiveness; of equal ones the cheapest, then the first.
    """
    space = family.space(budget)
    if space and not starts:
        raise SettingsError("A search needs starting points for its free parameters.")
    jobs = [Job(f"{name}/start-{number}", params) for number, params in enumerate(starts[:trials])]
    extra = [Job(f"{name}/{number}") for number in range(len(jobs), trials)] if space else []

    def evaluate(params: Mapping[str, Number]) -> tuple[float, dict[str, Any]]:
        return _evaluated(evaluator, solve(family.curve(evaluator.span, params), budget, family.fill))

    annotate_trace: set[str] = set()
    done: list[Done] = []
    for part in (jobs, jobs + extra):  # the process starts from finished trials
        done = queue.run(part, evaluate, space, name, lambda one: _once(one, annotate_trace, on_done))
    return _best(evaluator, done)


def random_search(
    evaluator: ScheduleEvaluator,
    queue: TrialQueue,
    budget: Budget,
    trials: int,
    on_done: Callable[[Done], object] = lambda done: None,
    name: str = "random",
) -> Found:
    """The best of so many random staircases at the budget: what any search must beat."""
    jobs = [Job(f"{name}/{number}", {"number": number}) for number in range(trials)]

    def evaluate(params: Mapping[str, Number]) -> tuple[float, dict[str, Any]]:
        seed = seed_of(queue.seed, "random schedule", str(int(params["number"])))
        return _evaluated(evaluator, solve(schedule_shapes.random_steps(evaluator.span, seed), budget, fill=False))

    done = queue.run(jobs, evaluate, {"number": Range(0, 10**9, integer=True)}, name, on_done)
    return _best(evaluator, done)


def latest_start(budget: Budget, steps: int = 1) -> int:
    """The deepest layer before which a first reduction can begin (and `steps` - 1 follow) within the budget."""
    span = budget.span
    for layer in reversed(span.layers):
        counts = [budget.workload.units if i < layer else 0 for i in span.layers]
        if layer + steps <= span.num_layers and budget.allows(counts):
            return layer
    return span.first


def _single(span: Span, params: Mapping[str, Number]) -> Curve:
    return schedule_shapes.single_layer(span, int(params["layer"]))


def _steps(span: Span, params: Mapping[str, Number]) -> Curve:
    first, steps = int(params["start"]), int(params["steps"])
    width = (span.num_layers - first) / steps
    return schedule_shapes.multi_step(span, sorted({first + int(width * step) for step in range(steps)}))


FAMILIES: dict[str, Family] = {
    "linear": Family(lambda span, params: schedule_shapes.linear(span)),
    "exponential": Family(lambda span, params: schedule_shapes.exponential(span)),
    "logistic": Family(lambda span, params: schedule_shapes.logistic(span, 0.3)),
    "single-layer": Family(
        _single, lambda budget: {"layer": Range(budget.span.first, latest_start(budget), integer=True)}, fill=False
    ),
    "multi-step": Family(
        _steps,
        lambda budget: {
            "start": Range(budget.span.first, latest_start(budget), integer=True),
            "steps": Range(1, min(6, budget.span.num_layers - budget.span.first), integer=True),
        },
        fill=False,
    ),
}
"""Shapes beside P-Sigmoid. 'logistic' is P-Sigmoid without a search, at k = 0.3."""


def _evaluated(evaluator: ScheduleEvaluator, schedule: Schedule) -> tuple[float, dict[str, Any]]:
    verdict = evaluator.evaluate(schedule)
    return verdict.effectiveness, {**vars(verdict), "counts": list(schedule.counts), "units": schedule.units}


def _best(evaluator: ScheduleEvaluator, done: Sequence[Done]) -> Found:
    best = max(enumerate(done), key=lambda pair: (pair[1].value, -pair[1].details["flops_share"], -pair[0]))[1]
    schedule = Schedule(tuple(best.details["counts"]), best.details["units"])
    return Found(schedule, evaluator.evaluate(schedule), len(done), details={"params": best.params, "trial": best.key})


def _once(done: Done, annotate_trace: set[str], on_done: Callable[[Done], object]) -> None:
    if done.key not in annotate_trace:
        annotate_trace.add(done.key)
        on_done(done)
