"""Every method at the same prefill FLOPs: searched on calibration samples, evaluated on test samples it never saw.

Accuracy and agreement are those of greedy decoding: an answer equals the target if and only if the argmax agrees at
every teacher-forced position. Two passes give both: the ground truth for all samples, the full model's own answer for
those that it does not answer by the truth's letters. An answer that is neither counts as wrong; of the two the data's
own scorer says whether they are right. Costs are counted from what each layer really processed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.cost import prefill_cost
from ...core.decision import Policy
from ...core.errors import SettingsError
from ...core.provenance import picture_key
from ...core.record import Sample
from ...evaluation.scorers import right_by_its_scorer
from ...evaluation.scoring import require_answers
from ...evaluation.statistics import Estimate, paired_p, retention, share_interval
from ...policies.fixed import KeepAll
from ..trials.queue import Done, Job, TrialQueue
from ..trials.samples import own_answers
from ..trials.schedule_evaluator import ModelScheduleEvaluator

__all__ = ["BUDGETS", "CostRow", "Entry", "HeldOutEvaluator", "compare"]

BUDGETS = (0.15, 0.30, 0.45, 0.60, 0.75)
"""Shares of the full model's prefill FLOPs."""


@dataclass(frozen=True)
class Entry:
    """One method at one budget, ready to be evaluated."""

    method: str
    budget: float
    """Share of the FLOPs that it was made for."""
    policy: Policy
    trials: int
    """Schedules that were evaluated on the calibration samples to find it; 0: nothing was searched."""
    rates: tuple[float, ...] = ()
    """Keep rate of each layer, where it is a schedule."""


@dataclass(frozen=True)
class CostRow:
    """What a method does at a budget, on the test samples. Payload of a record of kind 'equal-cost'."""

    method: str
    budget: float
    trials: int
    samples: int
    flops_share: float
    fastv_share: float
    kv_share: float
    kv_bytes: float
    """After prefill, mean of a sample."""
    visual_tokens: float
    """That a layer processes, mean over layers and samples."""
    full_visual_tokens: float
    accuracy: Estimate
    agreement: Estimate
    retention: Estimate
    p_random: float | None
    """McNemar's p-value that the best random schedule of this budget is right equally often; None for itself."""
    rates: tuple[float, ...]


class HeldOutEvaluator:
    """The test samples, evaluated once a policy.

    Raises:
        DataError: a sample has no answer.
    """

    def __init__(
        self, model: Any, processor: Any, samples: Sequence[Sample], *, first_layer: int = 1, batch_size: int = 16,
        max_new_tokens: int = 32, memory: int = 4 * 2**30, progress: Callable[[int], object] = lambda count: None,
    ) -> None:  # fmt: skip
        samples = list(samples)
        require_answers(samples)
        self.samples, known = samples, dict[str, str]()
        self._images = [picture_key(sample, known) for sample in samples]
        more: dict[str, Any] = {"first_layer": first_layer, "batch_size": batch_size, "memory": memory}
        truths = [str(sample.answer) for sample in samples]
        self._truth = ModelScheduleEvaluator(model, processor, samples, truths, progress=progress, **more)
        wrong = [sample for sample, right in zip(samples, self._truth.full.right, strict=True) if not right]
        self._wrong = np.flatnonzero(~self._truth.full.right)
        self._own: ModelScheduleEvaluator | None = None
        # an answer of other letters than the truth's may be right all the same, and the truth itself not wholly
        self._truth_right = np.array([bool(right_by_its_scorer(s, t)) for s, t in zip(samples, truths, strict=True)])
        self._own_right = self._truth_right.copy()
        if wrong:
            own = own_answers(model, processor, wrong, batch_size, max_new_tokens)
            said = [processor.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in own]
            self._own_right[self._wrong] = [bool(right_by_its_scorer(s, t)) for s, t in zip(wrong, said, strict=True)]
            self._own = ModelScheduleEvaluator(model, processor, wrong, own, **more)

    def take(self, policy: Policy) -> dict[str, Any]:
        """What a policy does, as plain values: right, agree ('0110...'), visual [N][L]."""
        found, visual = self._truth.run(policy)
        agree = found.right.copy()
        if self._own is not None:
            agree[self._wrong] = self._own.run(policy)[0].agree
        right = np.where(agree, self._own_right, found.right & self._truth_right)
        return {"right": _bits(right), "agree": _bits(agree), "visual": visual.tolist()}

    def row(self, entry: Entry, result: Mapping[str, Any], rival: Mapping[str, Any] | None) -> CostRow:
        """The row of an entry from what `take` gave; `rival`: the best random schedule at its budget."""
        right, agree = _bools(result["right"]), _bools(result["agree"])
        loads = self._truth.workload
        visual = np.array(result["visual"])  # [N, L]
        tokens = visual + np.array(loads.text)[:, None]
        cost = prefill_cost(loads.shape, tokens.T.tolist(), visual.T.tolist())
        count = len(right)
        return CostRow(
            method=entry.method, budget=entry.budget, trials=entry.trials, samples=count,
            flops_share=cost.flops_share, fastv_share=cost.fastv_share, kv_share=cost.kv_share,
            kv_bytes=cost.kv_bytes / count, visual_tokens=cost.visual_tokens,
            full_visual_tokens=cost.full_visual_tokens,
            accuracy=share_interval(right, self._images), agreement=share_interval(agree, self._images),
            retention=retention(right, self._own_right.tolist(), self._images),
            p_random=None if rival is None else paired_p(right, _bools(rival["right"]), self._images),
            rates=entry.rates,
        )  # fmt: skip

    def close(self) -> None:
        for evaluator in (self._truth, self._own):
            if evaluator is not None:
                evaluator.close()


def compare(
    held_out: HeldOutEvaluator,
    queue: TrialQueue,
    entries: Sequence[Entry],
    on_done: Callable[[Done], object] = lambda done: None,
) -> list[CostRow]:
    """Evaluate all entries, each once, sharing the work with other workers of the queue; the full model comes first.

    Raises:
        SettingsError: two entries have the same method and budget.
    """
    full = Entry("full", 1.0, KeepAll(), 0)
    by_key = {f"test/{entry.method}@{entry.budget:g}": entry for entry in [full, *entries]}
    if len(by_key) != len(entries) + 1:
        raise SettingsError("Two entries of the comparison have the same method and budget.")

    results: dict[str, Done] = {}
    for key, entry in by_key.items():

        def judged(params: Mapping[str, Any], policy: Policy = entry.policy) -> tuple[float, dict[str, Any]]:
            taken = held_out.take(policy)
            return float(np.mean(_bools(taken["right"]))), taken

        (results[key],) = queue.run([Job(key)], judged, group="test", on_done=on_done)
    rows = []
    for key, entry in by_key.items():
        rival = results.get(f"test/random-schedules@{entry.budget:g}")
        rows.append(held_out.row(entry, results[key].details,
                             rival.details if rival is not None and rival.key != key else None))  # fmt: skip
    return rows


def _bits(values: Any) -> str:
    return "".join("1" if value else "0" for value in values)


def _bools(bits: str) -> list[bool]:
    return [bit == "1" for bit in bits]
