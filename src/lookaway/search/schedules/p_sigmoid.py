"""P-Sigmoid (arXiv 2412.00556): a sigmoid over the layers; the budget sets its midpoint, a search its steepness.

Published: r(i) = 1 / (1 + e^(k (i - alpha))) for a budget b, with one scalar k found by Bayesian optimisation for each
budget. Bounds, iterations and the data of the objective are not known; nor whether the amplitude is free, though the
curve drawn in the paper has one of 0.755. Both forms are offered (docs/methods/p-sigmoid.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ...core.errors import SettingsError
from ..trials.queue import Done, Number, Range, TrialQueue
from ..trials.schedule_evaluator import ScheduleEvaluator
from . import schedule_shapes as schedule_shapes
from .budget import Budget
from .g_search import Found
from .shape_search import Family, kernel_search

__all__ = ["PSigmoidOptions", "p_sigmoid"]

AMPLITUDES = (0.3, 1.0)


@dataclass(frozen=True, kw_only=True)
class PSigmoidOptions:
    """Search the steepness of a sigmoid keep schedule for a budget."""

    amplitude: Literal["one", "free"] = "one"
    """one: the published formula; free: the height of the curve is searched too."""
    trials: int = 15
    """Schedules to evaluate; the first four at fixed points, then by Bayesian optimisation."""
    steepest: float = 1.5
    """Largest k; the paper's optima lie between 0.35 and 0.95."""
    flattest: float = 0.02
    """Smallest k."""

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise SettingsError(f"--trials must be at least 1, not {self.trials}.")
        if not 0 < self.flattest < self.steepest:
            raise SettingsError(
                f"The steepness is searched in (0, ...]: --flattest {self.flattest} must be above 0 and below "
                f"--steepest {self.steepest}."
            )


def p_sigmoid(
    evaluator: ScheduleEvaluator,
    queue: TrialQueue,
    budget: Budget,
    options: PSigmoidOptions | None = None,
    on_done: Callable[[Done], object] = lambda done: None,
    name: str = "p-sigmoid",
) -> Found:
    """The best sigmoid at the budget.

    Raises:
        MissingDependency: Optuna is not installed (there is no other optimiser that would step in).
    """
    options = options or PSigmoidOptions()
    space = {"k": Range(options.flattest, options.steepest, log=True)}
    places = (0.5, 0.0, 1.0, 0.75)  # middle, both ends, and the paper's neighbourhood
    starts: list[Mapping[str, Number]] = [
        {"k": math.exp(math.log(options.flattest) * (1 - x) + math.log(options.steepest) * x)} for x in places
    ]
    if options.amplitude == "free":
        space["amplitude"] = Range(*AMPLITUDES)
        starts = [
            {**start, "amplitude": height} for start, height in zip(starts, (1.0, 0.755, 0.755, 1.0), strict=True)
        ]
    family = Family(lambda span, p: schedule_shapes.logistic(span, p["k"], p.get("amplitude", 1.0)), lambda b: space)
    return kernel_search(evaluator, queue, budget, family, name, starts, options.trials, on_done)
