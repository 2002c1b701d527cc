"""Runs policies on samples: the model in full once a batch, then every policy from stored states.

The full model's own answers are teacher-forced (`engine/replay/resume.py`). A sample counts as unchanged where the
policy's greedy token is the full run's at every position of the full model's own answer, its end included, which is
when greedy decoding gives the same answer (`core/greedy.py`: by the model's own generation settings). What stored
states do not go on with is generated live. Where a score is asked for, the answers that changed are generated under
the attached policy and scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...anatomy.find import anatomy_of
from ...core.decision import Policy
from ...core.errors import DataError, UnsupportedModel
from ...core.greedy import GreedyRule
from ...core.record import Sample
from ...engine.api import attach
from ...engine.replay.resume import Paused, pause
from ...evaluation.scorers import Scorer
from ...models.answers import without_end
from ...models.encoding import encode
from ...policies.fixed import KeepAll
from ...policies.second_look import confidence
from ..trials.answer_targets import AnswerTargets
from ..trials.samples import batches_by_length, own_answers
from ..trials.state_cache import StateCache, Stored
from .candidates import one_pass_only
from .outcomes import Outcomes

__all__ = ["SampleRuns"]


class SampleRuns:
    """The full runs of some samples, from which policies go on.

    Args:
        model, processor: of the same supported model; no policy may be attached to it.
        samples: with an image each.
        start: the layer before which states are kept; 0: policies before the decoder are tried too.
        vision: policies are tried that rank by the vision tower's attention.
        scorer: of the task; None: no score is asked for.
        confidence_kind: a name in `policies.second_look.CONFIDENCES`.
        memory: bytes of states kept in memory; more go to a temporary folder.
        progress: called with the number of samples that were just answered in full, and again with that of those
            whose states are kept (none, where nothing may leave inside the decoder).

    Raises:
        DataError: the scorer gives the full model a score outside of [0, 1], or a sample has no answer.
        UnsupportedModel: the model's logits are no numbers, or its generation settings cannot be judged by one pass.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        samples: Sequence[Sample],
        *,
        start: int | None = None,
        vision: bool = False,
        scorer: Scorer | None = None,
        confidence_kind: str = "probability",
        batch_size: int = 8,
        max_new_tokens: int = 32,
        memory: int = 4 * 2**30,
        progress: Callable[[int], object] = lambda count: None,
    ) -> None:
        self.model, self.processor, self.anatomy = model, processor, anatomy_of(model)
        rule = GreedyRule.of(model)
        self.samples, self.kind, self.max_new_tokens = tuple(samples), confidence_kind, max_new_tokens
        self.answers = answers = own_answers(model, processor, samples, batch_size, max_new_tokens, progress)
        self.scorer = scorer
        self.scores = [] if scorer is None else _scores(scorer, samples, self._texts(answers))
        self._groups = batches_by_length(samples, answers, batch_size)
        self._states = StateCache(memory)
        self._runs: list[tuple[AnswerTargets, Stored]] = []
        self._ahead: dict[int, Stored] = {}
        self._ahead_layer = -1
        self.second_look_from = self.anatomy.num_layers + 1 if self.anatomy.has_windows else 0
        """The first layer from which a second look can run again; more than there are: none can on this decoder."""
        self.start = self.anatomy.first_prunable_layer if start is None else start
        if self.anatomy.only_before:  # states inside such a decoder cannot be gone on from
            self.full = self._live(KeepAll())
            return
        parts: list[Outcomes] = []
        for chosen in self._groups:
            encoded = encode(processor, [samples[i] for i in chosen], model.device, [answers[i] for i in chosen])
            assert encoded.answer_mask is not None
            inputs = self.anatomy.with_positions(encoded.inputs)
            with torch.no_grad():
                start_, ended = pause(model, inputs, self.start, encoded.answer_mask, vision)
            self.second_look_from = max(self.second_look_from, start_.unchanged_from)
            targets = AnswerTargets.of(inputs, encoded.answer_mask, rule)
            with torch.no_grad():
                targets = replace(targets, full_said=targets.said(ended.logits(targets.columns).float()))
            parts.append(self._outcomes(targets, ended))
            self._runs.append((targets, self._states.put(start_)))
            progress(len(chosen))
        self.full = self._in_order(parts)
        """The full model itself."""

    def outcomes(self, policy: Policy) -> Outcomes:
        """Run all samples under a policy of one pass."""
        if self.anatomy.only_before or one_pass_only(policy, self.anatomy.num_layers):
            return self._live(policy)
        begins = min(policy.layers(self.anatomy.num_layers, self.anatomy.first_prunable_layer), default=0)
        parts = []
        for number, (targets, stored) in enumerate(self._runs):
            with torch.no_grad():
                parts.append(self._outcomes(targets, self._before(number, stored, begins).run(policy)))
        found = self._in_order(parts)
        return found if self.scorer is None else replace(found, loss=self._losses(policy, found.same))

    def close(self) -> None:
        """Remove what lies on disk."""
        self._states.close()

    def _before(self, number: int, stored: Stored, layer: int) -> Paused:
        """The states of one batch before `layer`, where nothing has left yet. The latest such states are kept: policies
        that begin later go on from them, so a series of ever later exits runs each layer in full once."""
        if layer != self._ahead_layer:
            if layer < self._ahead_layer:  # an earlier layer is wanted again
                self._states.drop(list(self._ahead.values()))
                self._ahead.clear()
            self._ahead_layer = layer
        known = self._ahead.get(number)
        state = self._states.get(stored if known is None else known)
        if layer <= state.layer:
            return state
        state = state.run(KeepAll(), until=layer)
        if known is not None:
            self._states.drop([known])
        self._ahead[number] = self._states.put(state)
        return state

    @torch.no_grad()
    def _live(self, policy: Policy) -> Outcomes:
        """The same by generating under the attached policy: stored states do not go on with what it does."""
        parts = []
        for group in self._groups:
            inputs = encode(self.processor, [self.samples[i] for i in group], self.model.device).inputs
            with attach(self.model, policy) as run:
                said = self.model.generate(
                    **inputs, do_sample=False, max_new_tokens=self.max_new_tokens, output_logits=True,
                    return_dict_in_generate=True,
                )  # fmt: skip
            _check_numbers(said.logits[0])
            answers = without_end(said.sequences[:, inputs["input_ids"].shape[1] :], self.model, self.processor)
            trace, shape = run.trace, self.anatomy.shape
            visual, tokens = (np.array(part, dtype=np.int64).T for part in (trace.visual_tokens, trace.tokens))
            found = Outcomes.of_layers(
                np.array([answer == list(self.answers[i]) for answer, i in zip(answers, group, strict=True)]),
                confidence(said.logits[0], self.kind).double().cpu().numpy(), visual, tokens[:, 0] - visual[:, 0],
            )  # fmt: skip
            costs = [trace.row_cost(row) for row in range(len(group))]
            flops = np.array([cost.flops for cost in costs]) - found.flops(shape)
            held = np.array([cost.kv_bytes for cost in costs]) - found.kv(shape)
            parts.append(replace(found, more_flops=flops, more_bytes=held))
        found = self._in_order(parts)
        return found if self.scorer is None else replace(found, loss=self._losses(policy, found.same))

    @torch.no_grad()
    def _outcomes(self, targets: AnswerTargets, ended: Paused) -> Outcomes:
        logits = ended.logits(targets.columns).float()  # [B, A, vocabulary]
        _check_numbers(logits[targets.real])
        same = ((targets.said(logits) == targets.full_said) | ~targets.real).all(1)
        trace = ended.trace
        visual = np.array(trace.visual_tokens, dtype=np.int64).T
        forced = targets.real.sum(1).cpu().numpy()
        text = np.array(trace.tokens[0], dtype=np.int64) - visual[:, 0] - forced
        sure = confidence(logits[:, 0], self.kind).double().cpu().numpy()
        return Outcomes.of_layers(same.cpu().numpy(), sure, visual, text)

    def _losses(self, policy: Policy, same: NDArray[np.bool_]) -> NDArray[np.float64]:
        """What each sample's score falls by, float64 [N]; only changed answers are generated."""
        assert self.scorer is not None
        losses = np.zeros(len(same))
        changed = np.flatnonzero(~same)
        if len(changed):
            samples = [self.samples[i] for i in changed]
            size = max(len(group) for group in self._groups)
            with attach(self.model, policy):
                answers = own_answers(self.model, self.processor, samples, size, self.max_new_tokens)
            scores = _scores(self.scorer, samples, self._texts(answers))
            for i, score in zip(changed, scores, strict=True):
                losses[i] = max(0.0, self.scores[i] - score)
        return losses

    def _texts(self, answers: Sequence[Sequence[int]]) -> list[str]:
        return [text.strip() for text in self.processor.batch_decode(answers, skip_special_tokens=True)]

    def _in_order(self, parts: Sequence[Outcomes]) -> Outcomes:
        place = np.argsort([i for group in self._groups for i in group])
        return Outcomes(*(np.concatenate([getattr(part, f.name) for part in parts])[place] for f in fields(Outcomes)))


def _check_numbers(logits: Tensor) -> None:
    """Raise UnsupportedModel where a logit is no number: the likeliest token of such a row is the same under every
    policy, which would pass for the same answer."""
    if bool(logits.amax(-1).isnan().any()):
        raise UnsupportedModel(
            "The logits are no numbers (NaN), so no answer can be compared. float16 overflows in some models: load "
            "this one in bfloat16 or float32."
        )


def _scores(scorer: Scorer, samples: Sequence[Sample], texts: Sequence[str]) -> list[float]:
    found = scorer.scores(samples, texts)
    wrong = [score for score in found if not 0 <= score <= 1]
    if wrong:
        raise DataError(
            f"The scorer {scorer.name!r} gives {wrong[0]:.3f}, and a bound on the score needs scores from 0 to 1. Use "
            "another --score, or --metric answers."
        )
    return found
