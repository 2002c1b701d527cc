"""One search from options to a saved policy: what the command line, and a script of one's own, go through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...core.decision import Policy
from ...core.errors import DataError, SettingsError
from ...core.files import write_json
from ...core.provenance import provenance
from ...core.record import Sample, write_records
from ..trials.queue import Done, TrialQueue
from ..trials.samples import fingerprint
from ..trials.schedule_evaluator import ModelScheduleEvaluator
from . import schedule_shapes as schedule_shapes
from .budget import Budget, solve
from .g_search import Found, GSearchOptions, g_search
from .p_sigmoid import PSigmoidOptions, p_sigmoid
from .shape_search import FAMILIES, kernel_search, latest_start, random_search

__all__ = ["SEARCHES", "Result", "check_out", "save", "search", "summary_of", "trial_facts"]

SEARCHES = ("p-sigmoid", "g-search", "random", *FAMILIES)
"""Methods that `search` knows; each gives a keep schedule. VTW's fixed exit is found by `search.vtw`, and attention
skipping (eas) will have a search of its own."""


@dataclass(frozen=True)
class Result:
    """What was found, beside the best of the random schedules at the same cost."""

    method: str
    found: Found
    random: Found
    budget: float
    unit: str

    @property
    def notes(self) -> list[str]:
        """What a reader must know before trusting the schedule."""
        notes = list(self.found.notes)
        if self.method != "random" and self.random.verdict.effectiveness >= self.found.verdict.effectiveness:
            notes.append(
                f"The best of {self.random.trials} random schedules does at least as well at the same cost "
                f"({self.random.verdict.effectiveness:.4f} against {self.found.verdict.effectiveness:.4f}): this "
                "search found nothing that chance would not."
            )
        turns = sum(pair.turns for pair in self.found.not_monotone)
        if self.found.not_monotone:
            notes.append(
                f"'More tokens, more effect' fails in {len(self.found.not_monotone)} pairs of trials, {turns} of them "
                "across the tolerance; the search assumes it. They are listed in the records."
            )
        return notes


def search(
    evaluator: ModelScheduleEvaluator,
    queue: TrialQueue,
    method: str,
    budget: float | None,
    unit: str,
    sigmoid: PSigmoidOptions,
    greedy: GSearchOptions,
    random_trials: int | None = None,
    on_done: Callable[[Done], object] = lambda done: None,
) -> Result:
    """Run one method, and the random schedules that it must beat.

    Args:
        budget: share of the full cost; None: 0.5, and for G-Search, which has none, what its schedule costs.
        random_trials: None: as many as the method made.

    Raises:
        SettingsError: an unknown method or unit, or a budget that is too low.
    """
    if method not in SEARCHES:
        raise SettingsError(f"No search {method!r}; there are {', '.join(SEARCHES)}.")
    span, loads = evaluator.span, evaluator.workload

    def at(share: float) -> Budget:
        return Budget(share, unit, loads, span)  # type: ignore[arg-type]

    if method == "g-search":
        limits = at(budget) if budget is not None else None  # a budget too low is told before the work
        found = g_search(evaluator, queue, greedy, on_done)
        if limits is not None:
            schedule = solve(schedule_shapes.rescaled(found.schedule.rates[span.first :]), limits, fill=False)
            found = Found(schedule, evaluator.evaluate(schedule), found.trials, found.not_monotone, found.notes,
                          {**found.details, "before_rescaling": found.schedule.rates})  # fmt: skip
    else:
        limits = at(0.5 if budget is None else budget)
        if method == "p-sigmoid":
            found = p_sigmoid(evaluator, queue, limits, sigmoid, on_done)
        elif method == "random":
            found = random_search(evaluator, queue, limits, random_trials or sigmoid.trials, on_done)
        else:
            starts = _starts(method, limits)
            trials = sigmoid.trials if FAMILIES[method].space(limits) else 1
            found = kernel_search(evaluator, queue, limits, FAMILIES[method], method, starts, trials, on_done)
    if method == "random":
        return Result(method, found, found, limits.share if limits else 1.0, unit)
    verdict = found.verdict
    cost = verdict.flops_share if unit == "flops" else verdict.tokens_share
    limits = limits or at(min(1.0, cost + 1e-12))
    trials = random_trials or (found.trials if found.trials > 1 else sigmoid.trials)
    return Result(method, found, random_search(evaluator, queue, limits, trials, on_done), limits.share, unit)


def trial_facts(model: Any, processor: Any, samples: Sequence[Sample], **options: Any) -> dict[str, Any]:
    """What trials depend on, for `TrialQueue`: model, samples, library and the options that matter."""
    return provenance(model=model, processor=processor, samples=samples, **options)


def check_out(out: Path) -> None:
    """Raise DataError where `out` holds a policy that no search put there: it would be overwritten."""
    if (out / "config.json").exists() and not (out / "search.json").exists():
        raise DataError(f"{out} holds a policy that was not searched. Give another --out; nothing was changed.")


def save(
    out: Path, policy: Policy, summary: Mapping[str, Any], header: Mapping[str, Any], log: Sequence[Done],
    more: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> Path:  # fmt: skip
    """Write the policy folder: the policy, `search.json`, and every trial in `records.jsonl`.

    All of it is written atomically and follows from the storage, so that workers who finish together may all write it.
    """
    write_json(out / "search.json", dict(summary))
    trials = [("trial", done.record()) for done in log]
    write_records(out / "records.jsonl", [("run", header), *trials, ("search", summary), *more])
    return policy.save_pretrained(out)


def summary_of(
    result: Result, evaluator: ModelScheduleEvaluator, samples: Sequence[Sample], log: Sequence[Done]
) -> dict[str, Any]:
    """Payload of a record of kind 'search' (docs/records.md) and of `search.json`."""
    found = result.found
    return {
        "method": result.method, "budget": result.budget, "unit": result.unit, "measure": evaluator.measure,
        "slack": evaluator.slack, "ranking": evaluator.ranking, "first_layer": evaluator.span.first,
        "rates": list(found.schedule.rates), "verdict": asdict(found.verdict), "trials": found.trials,
        "details": dict(found.details), "random": asdict(result.random.verdict),
        "random_rates": list(result.random.schedule.rates), "random_trials": result.random.trials,
        "not_monotone": [asdict(pair) for pair in found.not_monotone], "notes": result.notes,
        "work": {**asdict(evaluator.work), "ratio": evaluator.work.ratio}, "fingerprint": fingerprint(samples),
        "samples": [sample.id for sample in samples], "log": "records.jsonl", "trials_logged": len(log),
    }  # fmt: skip


def _starts(method: str, budget: Budget) -> list[Mapping[str, Any]]:
    first, last = budget.span.first, latest_start(budget)
    if method == "single-layer":
        return [{"layer": layer} for layer in sorted({first, (first + last) // 2, last})]
    if method == "multi-step":
        most = min(6, budget.span.num_layers - first)
        return [{"start": first, "steps": min(3, most)}, {"start": (first + last) // 2, "steps": 1},
                {"start": last, "steps": most}]  # fmt: skip
    return [{}]
