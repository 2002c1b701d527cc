"""G-Search (arXiv 2412.00556): from the shallowest layer to the deepest, the least keep rate that still does the job.

Published: greedy over the layers; at each, with the layers before it settled, one-dimensional Bayesian optimisation of
effectiveness + lambda x efficiency, lambda chosen so that the performance that is needed is kept at least cost. The
paper's lambda, tolerance, measure and number of trials are not known; what is chosen here instead is said in
docs/methods/g-search.md. Beside it a form of our own: bisection on a tolerance, deterministic and without a lambda.

A trial at layer i keeps its count in all layers from i on: dropped tokens never come back, so that is the most the
layers behind can have. Hence the states entering layer i are the same for all its trials, and they are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ...core.errors import SettingsError
from ..trials.queue import Done, Job, Range, TrialQueue
from ..trials.schedule_evaluator import ScheduleEvaluator, ScheduleScore
from .budget import Schedule

__all__ = ["Found", "GSearchOptions", "NotMonotone", "g_search"]


@dataclass(frozen=True, kw_only=True)
class GSearchOptions:
    """Search a keep schedule from shallow to deep."""

    form: Literal["bisection", "bayes"] = "bisection"
    """bisection: the smallest rate within the tolerance (recommended); bayes: the published optimisation of
    effectiveness + lambda x efficiency, which finds the same with 2 to 8 times as many trials."""
    tolerance: float = 0.01
    """A schedule is good enough where its effectiveness is at least 1 minus this."""
    stride: int = 1
    """Search every n-th layer; the layers between keep as many tokens as the one before."""
    resolution: float = 0.01
    """Keep rates are found to this share of the visual tokens (never finer than one token), in both forms."""
    sections: int = 1
    """Trials of one bisection step; more than one lets several workers share a step."""
    probes: int = 1
    """Trials per layer below the rate that was found, to check that fewer tokens are really worse."""
    layer_trials: int = 8
    """Trials per layer of the published form, three of them at fixed points; the gaps beside the best are then halved
    down to --resolution (a Gaussian process of so few trials misses the best of 65 counts)."""
    efficiency_weight: float | None = None
    """The published form's lambda; default: the largest that was tried whose schedule is within the tolerance."""
    rounds: int = 5
    """Values of lambda to try if none is given."""

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise SettingsError(f"--tolerance must lie in [0, 1), not {self.tolerance}.")
        if not 0 < self.resolution <= 1:
            raise SettingsError(f"--resolution must lie in (0, 1], not {self.resolution}.")
        for name, least in (("stride", 1), ("sections", 1), ("probes", 0), ("layer_trials", 4), ("rounds", 1)):
            if getattr(self, name) < least:
                raise SettingsError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(self, name)}.")
        if self.efficiency_weight is not None and self.efficiency_weight < 0:
            raise SettingsError(f"--efficiency-weight must not be negative, not {self.efficiency_weight}.")


@dataclass(frozen=True)
class NotMonotone:
    """Two trials of one layer that contradict 'more tokens, more effect'."""

    layer: int
    more: int
    """Count of the trial that keeps more, and does worse ..."""
    more_effect: float
    less: int
    """... than this one, which keeps less."""
    less_effect: float
    turns: bool
    """The one with more is below the tolerance and the one with less within it: bisection alone could miss that."""


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    schedule: Schedule
    verdict: ScheduleScore
    trials: int
    not_monotone: tuple[NotMonotone, ...] = ()
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


def g_search(
    evaluator: ScheduleEvaluator,
    queue: TrialQueue,
    options: GSearchOptions | None = None,
    on_done: Callable[[Done], object] = lambda d: None,
) -> Found:
    """Search; with a queue whose storage holds earlier trials of the same search, go on from them.

    Raises:
        MissingDependency: Optuna is not installed (there is no other optimiser that would step in).
    """
    options = options or GSearchOptions()
    search = _Search(evaluator, queue, options, on_done)
    if options.form == "bisection":
        schedule = search.greedy("bisection", search.bisect)
        return search.found(schedule)
    if options.efficiency_weight is not None:
        weight = options.efficiency_weight
        return search.found(search.greedy(f"bayes/{weight:g}", search.bayes(weight)), efficiency_weight=weight)
    return _searched_weight(search)


def _searched_weight(search: _Search) -> Found:
    """The published form with lambda bisected in its logarithm: the schedule of least cost within the tolerance."""
    low, high = -3.0, 1.0
    best: tuple[float, float, Schedule] | None = None
    tried = []
    for _ in range(search.options.rounds):
        middle = (low + high) / 2
        weight = 10**middle
        schedule = search.greedy(f"bayes/{weight:.6g}", search.bayes(weight))
        verdict = search.evaluator.evaluate(schedule)
        tried.append({"weight": weight, "effectiveness": verdict.effectiveness, "flops_share": verdict.flops_share})
        if search.good(verdict.effectiveness):
            low = middle
            if best is None or verdict.flops_share < best[0]:
                best = (verdict.flops_share, weight, schedule)
        else:
            high = middle
    if best is None:
        note = (
            f"None of {search.options.rounds} values of lambda kept the tolerance of {search.options.tolerance:g}: the "
            "schedule keeps everything. Allow more, or try more --rounds."
        )
        return search.found(search.whole, notes=(note,), weights=tried)
    return search.found(best[2], efficiency_weight=best[1], weights=tried)


class _Search:
    """The greedy walk over the layers, and the two ways to choose a layer's count."""

    def __init__(
        self,
        evaluator: ScheduleEvaluator,
        queue: TrialQueue,
        options: GSearchOptions,
        on_done: Callable[[Done], object],
    ) -> None:
        self.evaluator, self.queue, self.options, self.on_done = evaluator, queue, options, on_done
        self.units = evaluator.workload.units
        self.depth = evaluator.span.num_layers
        self.whole = Schedule((self.units,) * self.depth, self.units)
        self.keys: set[str] = set()
        self.effects: dict[tuple[str, int], dict[int, float]] = {}
        """(pass, layer) -> count -> effectiveness, of all trials."""
        self.partial: set[tuple[str, int, Any]] = set()
        """(pass, layer, count) of trials whose effectiveness is known to be at most that number only."""

    def good(self, effect: float) -> bool:
        return effect >= 1 - self.options.tolerance - 1e-12

    def greedy(self, name: str, choose: Callable[[str, int, Schedule], int]) -> Schedule:
        """Settle the searched layers one by one."""
        schedule = self.whole
        for layer in self.evaluator.span.layers[:: self.options.stride]:
            if schedule.counts[layer] == 0:
                break
            self.evaluator.sync_cache_lengths(schedule, layer)
            schedule = _held(schedule, layer, choose(f"{name}/layer-{layer:02d}", layer, schedule))
        return schedule

    def found(self, schedule: Schedule, notes: tuple[str, ...] = (), **details: Any) -> Found:
        pairs = tuple(pair for (group, layer), known in sorted(self.effects.items())
                      for pair in self._contradictions(group, layer, known))  # fmt: skip
        return Found(schedule, self.evaluator.evaluate(schedule), len(self.keys), pairs, notes, details)

    # our form --------------------------------------------------------------------------------------------------------

    def bisect(self, group: str, layer: int, schedule: Schedule) -> int:
        """The least count within the tolerance, to the resolution; what the layer before keeps, where none is."""
        step = max(1, round(self.options.resolution * self.units))
        known = self.effects.setdefault((group, layer), {})
        low, high = -1, schedule.counts[layer]  # high is within the tolerance already, or nothing is
        while high - low > step:
            inner = _between(low, high, self.options.sections)
            known |= self._try(group, layer, schedule, inner)
            good = [count for count in inner if self.good(known[count])]
            high = min([high, *good])
            low = max([low, *(count for count in inner if count < high)])
        below = _between(-1, high, self.options.probes)
        known |= self._try(group, layer, schedule, [count for count in below if count not in known])
        return min([high, *(count for count, effect in known.items() if self.good(effect))])

    # the published form ----------------------------------------------------------------------------------------------

    def bayes(self, weight: float) -> Callable[[str, int, Schedule], int]:
        """Chooses the count with the greatest effectiveness + weight x (1 - share of the FLOPs)."""

        def choose(group: str, layer: int, schedule: Schedule) -> int:
            most = schedule.counts[layer]
            few = most < self.options.layer_trials  # then all of them are tried
            starts = list(range(most + 1)) if few else [0, most // 2, most]
            jobs = [Job(f"{group}/start-{count}", {"keep": count}) for count in starts]
            if not few:
                jobs += [Job(f"{group}/{number}") for number in range(self.options.layer_trials - len(starts))]
            space = {"keep": Range(0, most, integer=True)}
            found: list[Done] = []
            for part in (jobs[: len(starts)], jobs):  # the process starts from finished trials
                found = self._run(part, group, space, lambda count: self._value(_held(schedule, layer, count), weight))
            known = {int(done.params["keep"]): done for done in found}
            best = self._narrowed(group, layer, schedule, weight, known)
            effects = {count: done.details["effectiveness"] for count, done in known.items()}
            self.effects.setdefault((group, layer), {}).update(effects)
            return best

        return choose

    def _narrowed(self, group: str, layer: int, schedule: Schedule, weight: float, known: dict[int, Done]) -> int:
        """The best of `known` counts, after the gaps to its neighbours on both sides were halved to the resolution.

        A Gaussian process of a handful of trials finds the hill, not its top: of 65 counts it missed by 2 to 9.
        """
        step = max(1, round(self.options.resolution * self.units))
        while True:
            best = max(known, key=lambda count: (known[count].value, -count))
            below = max((count for count in known if count < best), default=best)
            above = min((count for count in known if count > best), default=best)
            counts = [(best + side) // 2 for side in (below, above) if abs(best - side) > step]
            if not counts:
                return best
            jobs = [Job(f"{group}/keep-{count}", {"keep": count}) for count in counts]
            space = {"keep": Range(0, max(schedule.counts[layer], 1), integer=True)}
            done = self._run(jobs, "", space, lambda count: self._value(_held(schedule, layer, count), weight))
            known |= dict(zip(counts, done, strict=True))

    # trials ----------------------------------------------------------------------------------------------------------

    def _try(self, group: str, layer: int, schedule: Schedule, counts: list[int]) -> dict[int, float]:
        jobs = [Job(f"{group}/keep-{count}", {"keep": count}) for count in counts]
        space = {"keep": Range(0, max(schedule.counts[layer], 1), integer=True)}
        needed = 1 - self.options.tolerance - 1e-12  # what cannot reach that need not be judged to the end
        done = self._run(jobs, "", space, lambda count: self._value(_held(schedule, layer, count), 0.0, needed))
        self.partial |= {(group, layer, one.params["keep"]) for one in done if not one.details["complete"]}
        return {count: one.details["effectiveness"] for count, one in zip(counts, done, strict=True)}

    def _run(self, jobs: list[Job], group: str, space: dict[str, Range], value: Callable[[int], Any]) -> list[Done]:
        def first_time(done: Done) -> None:
            if done.key not in self.keys:
                self.keys.add(done.key)
                self.on_done(done)

        return self.queue.run(jobs, lambda params: value(int(params["keep"])), space, group, first_time)

    def _value(self, schedule: Schedule, weight: float, needed: float = 0.0) -> tuple[float, dict[str, Any]]:
        verdict = self.evaluator.evaluate(schedule, needed)
        details = {**vars(verdict), "counts": list(schedule.counts), "units": schedule.units}
        return verdict.effectiveness + weight * (1 - verdict.flops_share), details

    def _contradictions(self, group: str, layer: int, known: Mapping[int, float]) -> list[NotMonotone]:
        counts = sorted(known)
        return [
            NotMonotone(layer, more, known[more], less, known[less],
                        not self.good(known[more]) and self.good(known[less]))
            for place, less in enumerate(counts) for more in counts[place + 1 :] if known[more] < known[less] - 1e-9
            and (group, layer, less) not in self.partial
        ]  # fmt: skip


def _held(schedule: Schedule, layer: int, count: int) -> Schedule:
    """The layers from `layer` on keep `count`."""
    return Schedule((*schedule.counts[:layer], *(count,) * (len(schedule.counts) - layer)), schedule.units)


def _between(low: int, high: int, count: int) -> list[int]:
    """Up to `count` whole numbers, evenly inside (low, high)."""
    return sorted({low + (high - low) * i // (count + 1) for i in range(1, count + 1)} - {low, high})
