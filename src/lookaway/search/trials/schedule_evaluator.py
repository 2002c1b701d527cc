"""What a search asks: how good is this schedule? Evaluated on a model and samples; trials start where they differ.

All trials of a search share what happens before some layer: the vision tower and the unprunable layers at least, and in
a search from shallow to deep all layers that are settled. The states that enter that layer are kept, so a trial runs
the layers behind it only. `work` counts what that saves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ...anatomy.find import anatomy_of
from ...core.decision import Policy
from ...core.errors import AttachError
from ...core.greedy import GreedyRule
from ...core.record import Sample, Trace
from ...engine.replay.resume import pause
from ...models.encoding import encode
from ...policies.keep_schedule import KeepSchedule
from ..schedules.budget import Schedule, Workload
from ..schedules.schedule_shapes import Span
from .answer_targets import AnswerTargets
from .effectiveness import Answers, Measure, at_most, effectiveness
from .samples import batches_by_length
from .state_cache import StateCache, Stored

__all__ = ["ModelScheduleEvaluator", "ScheduleEvaluator", "ScheduleScore", "Work"]


@dataclass(frozen=True)
class ScheduleScore:
    """What one schedule does on the calibration samples."""

    effectiveness: float
    """1.0: as good as the full model, by the measure that was chosen."""
    flops_share: float
    tokens_share: float
    """Visual tokens that a layer processes / all of them: the mean keep rate."""
    loss: float = float("nan")
    agreement: float = float("nan")
    accuracy: float = float("nan")
    complete: bool = True
    """False: the schedule was seen to be too bad before all samples had run; its effectiveness is at most this, and
    the other numbers are of the samples that ran."""


class ScheduleEvaluator(Protocol):
    """Whatever evaluates schedules: a model on samples, or a made-up function in tests."""

    @property
    def span(self) -> Span: ...
    @property
    def workload(self) -> Workload: ...

    def evaluate(self, schedule: Schedule, needed: float = 0.0) -> ScheduleScore:
        """Deterministic: the same schedule gets the same verdict.

        What is certain to stay below `needed` may be evaluated on a part of the samples.
        """

    def sync_cache_lengths(self, schedule: Schedule, layer: int) -> None:
        """The schedules to come keep, in the layers before `layer`, what this one keeps. Only saves work."""


@dataclass
class Work:
    """Decoder FLOPs that a search spent, and those of the same trials each run through all layers on all samples."""

    spent: int = 0
    naive: int = 0
    trials: int = 0

    @property
    def ratio(self) -> float:
        return self.spent / self.naive if self.naive else 1.0


class ModelScheduleEvaluator:
    """Evaluates schedules by the teacher-forced answers of a model.

    Args:
        model, processor: of the same supported model, no policy attached.
        samples: with an image each (`search.samples.with_images`).
        answers: what is teacher-forced, one a sample, text or token ids (`search.samples.targets`).
        ranking: which tokens a schedule keeps (a name in `policies.ranking.RANKINGS`).
        first_layer: the first layer that may keep less.
        memory: bytes of states kept in memory; more go to a temporary folder.
        progress: called with the number of samples whose full run is done.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        samples: Sequence[Sample],
        answers: Sequence[str | Sequence[int]],
        *,
        measure: Measure = "loss",
        slack: float = 0.05,
        ranking: str = "last-token",
        seed: int = 0,
        first_layer: int = 2,
        batch_size: int = 16,
        memory: int = 4 * 2**30,
        progress: Callable[[int], object] = lambda count: None,
    ) -> None:
        self.anatomy = anatomy_of(model)
        self.anatomy.require_inside("A schedule of visual tokens per layer")
        rule = GreedyRule.of(model)
        self.measure, self.slack, self.ranking, self.seed = measure, slack, ranking, seed
        self.samples = tuple(samples)
        self.work = Work()
        self._span = Span(self.anatomy.num_layers, max(first_layer, self.anatomy.first_prunable_layer))
        self._states = StateCache(memory)
        self._known: dict[tuple[int, ...], ScheduleScore] = {}
        # 1. The full run, batch by batch.
        groups = batches_by_length(samples, answers, batch_size)
        ran: list[tuple[AnswerTargets, Stored, Answers]] = []
        counts: dict[int, tuple[int, int]] = {}
        answer_targets: dict[int, int] = {}
        for chosen in groups:
            batch = [samples[i] for i in chosen]
            encoded = encode(processor, batch, model.device, [answers[i] for i in chosen])
            assert encoded.answer_mask is not None
            inputs = self.anatomy.with_positions(encoded.inputs)
            with torch.no_grad():
                start, ended = pause(model, inputs, self._span.first, encoded.answer_mask)
                taken = AnswerTargets.of(inputs, encoded.answer_mask, rule)
                said, found = taken.answers(ended, None)
            taken = replace(taken, full_said=said)
            ran.append((taken, self._states.put(start), found))
            layout = start.state.initial
            texts = (layout.text & ~encoded.answer_mask).sum(1)
            counts |= zip(chosen, zip(layout.visual_counts.tolist(), texts.tolist(), strict=True), strict=True)
            answer_targets |= zip(chosen, encoded.answer_mask.sum(1).tolist(), strict=True)
            self._spend(ended.trace, 0, self._span.num_layers)
            progress(len(batch))
        self.work.naive = self.work.spent
        # 2. Batches that need their image most go first: they find a schedule that is too bad out at once.
        need = [self._blind_loss(batch, start) for batch, start, _ in ran]
        hardest = sorted(range(len(groups)), key=lambda g: (-need[g], g))
        self._batches = [ran[g][0] for g in hardest]
        self._base = [ran[g][1] for g in hardest]
        self._place = np.argsort([i for g in hardest for i in groups[g]])
        self.full = self._in_order([ran[g][2] for g in hardest])
        self._current = self._base
        self._settled: tuple[int, ...] = ()
        # 3. What schedules cost on these samples, with and without the forced answers.
        both = [counts[i] for i in range(len(samples))]
        self._workload = Workload(self.anatomy.shape, tuple(v for v, _ in both), tuple(t for _, t in both))
        both = [(v, t + answer_targets[i]) for i, (v, t) in enumerate(both)]
        self._forced = Workload(self.anatomy.shape, tuple(v for v, _ in both), tuple(t for _, t in both))

    @property
    def span(self) -> Span:
        return self._span

    @property
    def workload(self) -> Workload:
        return self._workload

    def policy(self, schedule: Schedule) -> KeepSchedule:
        return KeepSchedule(schedule.rates, self.ranking, self.seed)

    def evaluate(self, schedule: Schedule, needed: float = 0.0) -> ScheduleScore:
        known = self._known.get(schedule.counts)
        if known is None or (not known.complete and known.effectiveness >= needed):
            starts = self._current if self._fits(schedule) else self._base
            found, _ = self._run(self.policy(schedule), starts, needed)
            self.work.trials += 1
            self.work.naive += self._forced.cost(schedule.counts, "flops")
            complete = len(found) == len(self.full)
            value = effectiveness if complete else at_most
            known = self._known[schedule.counts] = ScheduleScore(
                value(found, self.full, self.measure, self.slack),
                self._workload.share(schedule.counts, "flops"),
                self._workload.share(schedule.counts, "tokens"),
                float(found.loss.mean()),
                float(found.agree.mean()),
                float(found.right.mean()),
                complete,
            )
        return known

    def sync_cache_lengths(self, schedule: Schedule, layer: int) -> None:
        starts = self._current if self._fits(schedule) and len(self._settled) <= layer else self._base
        policy, moved = self.policy(schedule), []
        for stored in starts:
            run = self._states.get(stored)
            with torch.no_grad():
                ahead = run.run(policy, layer)
            self._spend(ahead.trace, run.layer, layer)
            moved.append(self._states.put(ahead))
        if self._current is not self._base:
            self._states.drop(self._current)
        self._current, self._settled = moved, schedule.counts[:layer]

    def run(self, policy: Policy) -> tuple[Answers, NDArray[np.int64]]:
        """Any policy: what it answers, and the visual tokens int64 [N, L] that each layer processed, sample by sample.

        Raises:
            AttachError: it wants to remove before the span's first layer.
        """
        layers = policy.layers(self._span.num_layers, self.anatomy.first_prunable_layer)
        if layers and min(layers) < self._span.first:
            raise AttachError(
                f"{policy!r} removes before layer {min(layers)}, but this evaluator kept the states before layer "
                f"{self._span.first}. {_cure(min(layers))}"
            )
        return self._run(policy, self._base)  # what it costs beside a full run is not counted

    def close(self) -> None:
        """Remove what lies on disk."""
        self._states.close()

    def _blind_loss(self, batch: AnswerTargets, stored: Stored) -> float:
        """The highest loss of its answers where no visual token goes beyond the first layers. Cheap: only text runs."""
        first, run = self._span.first, self._states.get(stored)
        with torch.no_grad():
            ended = run.run(KeepSchedule((1.0,) * first + (0.0,) * (self._span.num_layers - first), "uniform"))
            _, found = batch.answers(ended, batch.full_said)
        self._spend(ended.trace, run.layer, self._span.num_layers)
        return float(found.loss.max())

    def _fits(self, schedule: Schedule) -> bool:
        return schedule.counts[: len(self._settled)] == self._settled

    def _run(self, policy: Policy, starts: Sequence[Stored], needed: float = 0.0) -> tuple[Answers, NDArray[np.int64]]:
        """Batch by batch, until all have run or it is certain that `needed` is out of reach."""
        parts, visual = [], []
        for batch, stored in zip(self._batches, starts, strict=True):
            run = self._states.get(stored)
            with torch.no_grad():
                ended = run.run(policy)
                _, found = batch.answers(ended, batch.full_said)
            parts.append(found)
            visual.append(np.array(ended.trace.visual_tokens, dtype=np.int64).T)
            self._spend(ended.trace, run.layer, self._span.num_layers)
            if needed > 0 and len(parts) < len(starts):
                found = Answers.concat(parts)
                if at_most(found, self.full, self.measure, self.slack) < needed:
                    return found, np.concatenate(visual)
        return self._in_order(parts), np.concatenate(visual)[self._place]

    def _in_order(self, parts: Sequence[Answers]) -> Answers:
        found = Answers.concat(parts)
        return Answers(found.loss[self._place], found.right[self._place], found.agree[self._place])

    def _spend(self, trace: Trace, start: int, stop: int) -> None:
        self.work.spent += sum(
            trace.shape.layer_flops(n, layer=layer) for layer in range(start, stop) for n in trace.tokens[layer]
        )


def _cure(layer: int) -> str:
    if layer:
        return f"Make it with first_layer={layer}."
    return "What is removed before the decoder is evaluated by `lookaway eval --policy ...`, not by a search."
