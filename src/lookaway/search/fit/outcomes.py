"""What a policy does on each sample: is the answer the same, how sure was the first token, what did each layer process.

The model runs in full once a batch; every policy then goes on from the states before the first prunable layer
(`engine/replay/resume.py`), with the full model's own answers teacher-forced. A sample counts as unchanged where the
policy's most likely token is the full run's at every position of the full model's own answer, its end included, which
is when greedy decoding gives the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...anatomy.find import anatomy_of
from ...core.cost import DecoderShape
from ...core.decision import Policy
from ...core.record import Sample
from ...engine.replay.resume import Paused, pause
from ...models.encoding import encode
from ...policies.second_look import confidence
from ..trials.answer_targets import AnswerTargets
from ..trials.samples import batches_by_length, own_answers
from ..trials.state_cache import StateCache, Stored

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

    def __len__(self) -> int:
        return len(self.same)

    def flops(self, shape: DecoderShape, start: int = 0) -> NDArray[np.int64]:
        """Counted FLOPs of each sample's decoder prefill from layer `start` on, int64 [N]."""
        tokens = self.visual[:, start:] + self.text[:, None]
        sizes = np.unique(tokens)
        costs = np.array([shape.layer_flops(int(size)) for size in sizes], dtype=np.int64)
        return costs[np.searchsorted(sizes, tokens)].sum(1)

    def kv(self) -> NDArray[np.int64]:
        """Positions that the KV cache holds after prefill, summed over layers, int64 [N]."""
        return (self.visual + self.text[:, None]).sum(1)

    def to_plain(self) -> dict[str, Any]:
        """As JSON takes it, for the trial log."""
        return {
            "same": self.same.astype(int).tolist(),
            "sure": [round(value, 6) for value in self.sure.tolist()],
            "visual": self.visual.tolist(),
            "text": self.text.tolist(),
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Outcomes:
        return cls(
            np.array(plain["same"], dtype=bool),
            np.array(plain["sure"], dtype=np.float64),
            np.array(plain["visual"], dtype=np.int64),
            np.array(plain["text"], dtype=np.int64),
        )


class SampleRuns:
    """The full runs of some samples, from which policies go on.

    Args:
        model, processor: of the same supported model; no policy may be attached to it.
        samples: with an image each.
        confidence_kind: a name in `policies.second_look.CONFIDENCES`.
        memory: bytes of states kept in memory; more go to a temporary folder.
        progress: called with the number of samples whose full run is done.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        samples: Sequence[Sample],
        *,
        confidence_kind: str = "probability",
        batch_size: int = 8,
        max_new_tokens: int = 32,
        memory: int = 4 * 2**30,
        progress: Callable[[int], object] = lambda count: None,
    ) -> None:
        self.anatomy = anatomy_of(model)
        self.samples, self.kind = tuple(samples), confidence_kind
        answers = own_answers(model, processor, samples, batch_size, max_new_tokens)
        self._groups = batches_by_length(samples, answers, batch_size)
        self._states = StateCache(memory)
        self._runs: list[tuple[AnswerTargets, Stored]] = []
        self.second_look_from = self.anatomy.num_layers + 1 if self.anatomy.has_windows else 0
        """The first layer from which a second look can run again; more than there are: none can on this decoder."""
        parts: list[Outcomes] = []
        for chosen in self._groups:
            encoded = encode(processor, [samples[i] for i in chosen], model.device, [answers[i] for i in chosen])
            assert encoded.answer_mask is not None
            inputs = self.anatomy.with_positions(encoded.inputs)
            with torch.no_grad():
                start, ended = pause(model, inputs, self.anatomy.first_prunable_layer, encoded.answer_mask)
            self.second_look_from = max(self.second_look_from, start.unchanged_from)
            targets = AnswerTargets.of(inputs["input_ids"], encoded.answer_mask)
            with torch.no_grad():
                targets = replace(targets, full_said=ended.logits(targets.columns).argmax(-1))
            parts.append(self._outcomes(targets, ended))
            self._runs.append((targets, self._states.put(start)))
            progress(len(chosen))
        self.full = self._in_order(parts)
        """The full model itself."""

    def outcomes(self, policy: Policy) -> Outcomes:
        """Run all samples under a policy of one pass."""
        parts = []
        for targets, stored in self._runs:
            with torch.no_grad():
                parts.append(self._outcomes(targets, self._states.get(stored).run(policy)))
        return self._in_order(parts)

    def close(self) -> None:
        """Remove what lies on disk."""
        self._states.close()

    @torch.no_grad()
    def _outcomes(self, targets: AnswerTargets, ended: Paused) -> Outcomes:
        logits = ended.logits(targets.columns).float()  # [B, A, vocabulary]
        same = ((logits.argmax(-1) == targets.full_said) | ~targets.real).all(1)
        trace = ended.trace
        visual = np.array(trace.visual_tokens, dtype=np.int64).T
        forced = targets.real.sum(1).cpu().numpy()
        text = np.array(trace.tokens[0], dtype=np.int64) - visual[:, 0] - forced
        return Outcomes(same.cpu().numpy(), confidence(logits[:, 0], self.kind).double().cpu().numpy(), visual, text)

    def _in_order(self, parts: Sequence[Outcomes]) -> Outcomes:
        place = np.argsort([i for group in self._groups for i in group])
        fields = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("same", "sure", "visual", "text")
        )
        return Outcomes(*(field[place] for field in fields))
