"""What a policy does on each sample: is the answer the same, how sure was the first token, what did each layer process.

The model runs in full once a batch; every policy then goes on from stored states (`engine/replay/resume.py`), with the
full model's own answers teacher-forced. A sample counts as unchanged where the policy's most likely token is the full
run's at every position of the full model's own answer, its end included, which is when greedy decoding gives the same
answer. Where a score is asked for, the answers that changed are generated under the attached policy and scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...anatomy.find import anatomy_of
from ...core.cost import DecoderShape
from ...core.decision import Policy
from ...core.errors import DataError
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

__all__ = ["Outcomes", "SampleRuns"]


@dataclass(frozen=True)
class Outcomes:
    """One policy on N samples."""

    same: NDArray[np.bool_]  # [N]
    """The answer is the full model's, token by token."""
    sure: NDArray[np.float64]  # [N]
    """Confidence of the first answer token."""
    visual: NDArray[np.int64]  # [N, L]
    """Visual tokens that each layer processed."""
    text: NDArray[np.int64]  # [N]
    """Text tokens of the prompt."""
    loss: NDArray[np.float64]  # [N]
    """How far the score falls below the full model's, in [0, 1]; all 0 where no score is asked for."""
    more_flops: NDArray[np.int64]  # [N]
    """FLOPs beside those of whole layers over these tokens; below 0 where attention is skipped or tokens are frozen."""
    more_bytes: NDArray[np.int64]  # [N]
    """The same of the bytes that the KV cache holds."""

    @classmethod
    def of_layers(cls, same: Any, sure: Any, visual: Any, text: Any) -> Outcomes:
        """Of whole layers, and without scores."""
        none = np.zeros(len(same), dtype=np.int64)
        return cls(same, sure, visual, text, none.astype(np.float64), none, none)

    def __len__(self) -> int:
        return len(self.same)

    def flops(self, shape: DecoderShape, start: int = 0) -> NDArray[np.int64]:
        """Counted FLOPs of each sample's decoder prefill from layer `start` on, int64 [N]."""
        return self._sum(lambda tokens, layer: shape.layer_flops(tokens, layer=layer), start) + self.more_flops

    def kv(self, shape: DecoderShape) -> NDArray[np.int64]:
        """Bytes that the KV cache holds after prefill, summed over layers, int64 [N]."""
        return self._sum(shape.kv_bytes, 0) + self.more_bytes

    def _sum(self, cost: Callable[[int, int], int], start: int) -> NDArray[np.int64]:
        """`cost` of (tokens, layer) summed over the layers from `start` on, int64 [N]; each size is asked for once."""
        tokens = self.visual[:, start:] + self.text[:, None]
        sizes, place = np.unique(tokens, return_inverse=True)
        layers = range(start, start + tokens.shape[1])
        costs = np.array([[cost(int(size), layer) for size in sizes] for layer in layers], dtype=np.int64)
        return costs[np.arange(tokens.shape[1]), place.reshape(tokens.shape)].sum(1)

    def followed_by(self, more: Outcomes) -> Outcomes:
        """The same policy on these samples and then on those."""
        return Outcomes(*(np.concatenate([getattr(self, f.name), getattr(more, f.name)]) for f in fields(Outcomes)))

    def to_plain(self) -> dict[str, Any]:
        """As JSON takes it, for the trial log."""
        return {
            "same": self.same.astype(int).tolist(),
            "sure": [round(value, 6) for value in self.sure.tolist()],
            "visual": self.visual.tolist(),
            "text": self.text.tolist(),
            "loss": [round(value, 6) for value in self.loss.tolist()],
            "more_flops": self.more_flops.tolist(),
            "more_bytes": self.more_bytes.tolist(),
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Outcomes:
        return cls(
            np.array(plain["same"], dtype=bool),
            np.array(plain["sure"], dtype=np.float64),
            np.array(plain["visual"], dtype=np.int64),
            np.array(plain["text"], dtype=np.int64),
            np.array(plain["loss"], dtype=np.float64),
            np.array(plain["more_flops"], dtype=np.int64),
            np.array(plain["more_bytes"], dtype=np.int64),
        )


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
            targets = AnswerTargets.of(inputs["input_ids"], encoded.answer_mask)
            with torch.no_grad():
                targets = replace(targets, full_said=ended.logits(targets.columns).argmax(-1))
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
        same = ((logits.argmax(-1) == targets.full_said) | ~targets.real).all(1)
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


def _scores(scorer: Scorer, samples: Sequence[Sample], texts: Sequence[str]) -> list[float]:
    found = scorer.scores(samples, texts)
    wrong = [score for score in found if not 0 <= score <= 1]
    if wrong:
        raise DataError(
            f"The scorer {scorer.name!r} gives {wrong[0]:.3f}, and a bound on the score needs scores from 0 to 1. Use "
            "another --score, or --metric answers."
        )
    return found
