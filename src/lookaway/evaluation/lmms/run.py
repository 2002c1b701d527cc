"""Tasks of lmms-eval with a policy and without it: its own scores and result files, our pairs and our costs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core.decision import Policy
from ...core.errors import LookawayError
from ...core.files import write_json
from ..beside import Baseline
from ..runner import PairedResult
from ..scores import PairedScores
from ..scoring import same_answer
from .efficiency import Efficiency, means
from .harness import run_harness

__all__ = ["TaskResult", "TaskRuns", "evaluate_tasks", "result_file"]


@dataclass(frozen=True)
class TaskResult:
    """One task with the policy and without it."""

    task: str
    figures: dict[str, tuple[float, float]]
    """lmms-eval's aggregated metrics: name -> (without, with)."""
    efficiency: dict[str, float]
    """Means of the policy's costs over the task's questions (`efficiency.means`)."""
    documents: str
    """Digest of the questions' documents, in their order."""
    pairs: list[PairedResult]
    scores: PairedScores | None
    """By the first metric of the task that scores single questions; None where it only has totals (CIDEr)."""


class TaskRuns:
    """One set of tasks, answered without a policy and then under as many as are asked for. All processes make it and
    call the same methods.

    Args:
        model: a `LookawayModel`; its own policy is put aside.
        tasks: names that `known_tasks` has checked.
        manager: of `task_manager`.
        out: folder of `without.json` and one file a variant, lmms-eval's results with our efficiency figures in them.
        limit: at most this many questions per task.
    """

    def __init__(self, model: Any, tasks: Sequence[str], manager: Any, *, out: Path, limit: int | None = None) -> None:
        self.model, self.tasks, self.manager, self.out, self.limit = model, tasks, manager, out, limit
        self._without: dict[str, Any] | None = None

    def run(self, policy: Policy, variant: str = "policy") -> list[TaskResult]:
        """All tasks under one policy.

        Returns:
            One result a task, in lmms-eval's order; empty in all processes but the first.

        Raises:
            DataError: a task's data cannot be had; the text tells what to fetch.
            LookawayError: a question cannot be answered, or lmms-eval left no result of a task, or another set of
                questions in another run.
        """
        return self._paired(variant, policy)

    def beside(
        self, results: Sequence[TaskResult], choose: Callable[[Sequence[PairedResult]], Sequence[Baseline]]
    ) -> Iterator[tuple[str, dict[str, Baseline], list[TaskResult] | LookawayError]]:
        """Run what stands beside a policy, at its cost in each task.

        Args:
            results: of the policy; looked at in the first process.
            choose: a task's pairs -> its baselines.

        Yields:
            The kind of a baseline, what it is in each task that has one, and their results, or the error that says why
            this model cannot run it.
        """
        group = self.model.group

        def chosen() -> dict[str, dict[str, Baseline]]:
            found: dict[str, dict[str, Baseline]] = {}
            for result in results:
                for one in choose(result.pairs):
                    found.setdefault(one.kind, {})[result.task] = one
            return found

        for kind, baselines in group.first(chosen).items():
            policies = {task: one.policy for task, one in baselines.items()}
            try:
                yield kind, baselines, self._paired(kind, None, policies)
            except LookawayError as error:
                yield kind, baselines, error

    def _paired(
        self, variant: str, policy: Policy | None, policy_of: Mapping[str, Policy] | None = None
    ) -> list[TaskResult]:
        if self._without is None:
            self._without = self._run(None, {})
        found = self._run(policy, policy_of or {})
        if self.model.rank:
            return []
        costs = dict(self.model.efficiency)
        tasks = [task for task in found["samples"] if policy is not None or task in (policy_of or {})]
        for task in tasks:  # 'results' also holds groups of tasks, which have no questions of their own
            found["results"][task].update({f"lookaway_{k}": v for k, v in means(_costs(costs, task)).items()})
        write_json(self.out / "without.json", _plain(self._without))
        write_json(result_file(self.out, variant), _plain(found))
        return [_task_result(task, self._without, found, costs, variant) for task in tasks]

    def _run(self, policy: Policy | None, policy_of: Mapping[str, Policy]) -> dict[str, Any]:
        self.model.policy, self.model.policy_of = policy, policy_of
        return run_harness(self.model, self.tasks, self.manager, self.limit)


def result_file(out: Path, variant: str) -> Path:
    """Where lmms-eval's results of a variant are left: 'random tokens' -> random-tokens.json."""
    return out / f"{variant.replace(' ', '-')}.json"


def evaluate_tasks(
    model: Any,
    policy: Policy,
    tasks: Sequence[str],
    manager: Any,
    *,
    out: Path,
    variant: str = "policy",
    limit: int | None = None,
) -> list[TaskResult]:
    """Run lmms-eval twice over the same questions, first without the policy: `TaskRuns` with one policy."""
    return TaskRuns(model, tasks, manager, out=out, limit=limit).run(policy, variant)


def _costs(costs: dict[tuple[str, Any], Efficiency], task: str) -> list[Efficiency]:
    return [cost for (name, _), cost in costs.items() if name == task]


def _task_result(
    task: str, without: dict[str, Any], found: dict[str, Any], costs: dict[tuple[str, Any], Efficiency], variant: str
) -> TaskResult:
    base = {sample["doc_id"]: sample for sample in without["samples"][task]}
    rows = {sample["doc_id"]: sample for sample in found["samples"][task]}
    if base.keys() != rows.keys():
        raise LookawayError(f"{task}: the runs with and without the policy had different questions.")
    listed = without["configs"].get(task, {}).get("metric_list") or ()
    metrics = [entry["metric"] for entry in listed if entry.get("higher_is_better") is not False]  # no error rates
    pairs, scores, scores_without = [], [], []
    for document, row in rows.items():
        first, second = (_score(entry, metrics) for entry in (base[document], row))
        scores_without.append(first)
        scores.append(second)
        pairs.append(_pair(task, document, base[document], row, costs[task, document], (first, second), variant))
    paired = None
    known = [score for score in scores if score is not None]
    known_without = [score for score in scores_without if score is not None]
    if len(known) == len(known_without) == len(rows):
        average, average_without = sum(known) / len(rows), sum(known_without) / len(rows)
        paired = PairedScores(metrics[0], known, known_without, {"score": average}, {"score": average_without})
    documents = hashlib.sha256("".join(str(row["doc_hash"]) for row in rows.values()).encode()).hexdigest()
    return TaskResult(task, _figures(task, without, found), means(_costs(costs, task)), documents, pairs, paired)


def _figures(task: str, without: dict[str, Any], found: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """lmms-eval names a figure 'metric,filter'; the standard errors beside them are left to the pairs."""
    base = without["results"][task]
    return {
        name.removesuffix(",none"): (float(base[name]), float(value))
        for name, value in found["results"][task].items()
        if "," in name and "_stderr" not in name and all(isinstance(v, int | float) for v in (value, base.get(name)))
    }


def _score(sample: dict[str, Any], metrics: Sequence[str]) -> float | None:
    """A question's score: the number of its first metric that has one, or the 'score' of what it keeps for its total.

    MME's questions have one of two metrics each; a caption's have none, because CIDEr needs all captions.
    """
    for metric in metrics:
        value = sample.get(metric)
        value = value.get("score") if isinstance(value, dict) else value
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, int | float):
            return float(value)
    return None


def _pair(
    task: str, document: Any, base: dict[str, Any], row: dict[str, Any], cost: Efficiency,
    scores: tuple[float | None, float | None], variant: str,
) -> PairedResult:  # fmt: skip
    first, second = (_answer(entry) for entry in (base, row))
    right = [None if score is None else score >= 1 for score in scores]
    return PairedResult(
        variant=variant, id=f"{task}/{document}", family=task, question=str((row.get("arguments") or [""])[0]),
        truth=None if row.get("target") is None else str(row["target"]), answer_without=first, answer_with=second,
        right_without=right[0], right_with=right[1], agree=same_answer(first, second), exit_layer=cost.exit_layer,
        num_layers=cost.num_layers, visual_tokens=cost.visual_tokens, flops=cost.flops, full_flops=cost.full_flops,
        fastv_flops=cost.fastv_flops, full_fastv_flops=cost.full_fastv_flops, kv_bytes=cost.kv_bytes,
        full_kv_bytes=cost.full_kv_bytes, image=cost.image, prompt_visual_tokens=cost.prompt_visual_tokens,
    )  # fmt: skip


def _answer(sample: dict[str, Any]) -> str:
    """The model's text, before the task's filters."""
    value = sample["resps"]
    while isinstance(value, list):
        value = value[0]
    return str(value)


def _plain(results: dict[str, Any]) -> Any:
    return json.loads(json.dumps(results, default=str))
