"""Teacher-forced answers of a batch, read off a run that may have lost columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.greedy import GreedyRule, answer_places
from ...engine.replay.resume import Paused
from .effectiveness import Answers

__all__ = ["AnswerTargets"]


@dataclass(frozen=True)
class AnswerTargets:
    """Where the teacher-forced answers of one batch are. A: most answer tokens of a row."""

    columns: Tensor  # int64 [B, A]
    """Columns whose logits predict the answer tokens."""
    real: Tensor  # bool [B, A]
    wanted: Tensor  # int64 [B, A]
    ids: Tensor  # int64 [B, S]
    """Prompts and answers."""
    there: Tensor  # bool [B, S]
    """Columns that hold no padding."""
    rule: GreedyRule
    """How the model's greedy generation chooses."""
    full_said: Tensor | None = None  # int64 [B, A]

    @classmethod
    def of(cls, inputs: Mapping[str, Tensor], mask: Tensor, rule: GreedyRule) -> AnswerTargets:
        """Of encoded prompts with answers, which `mask` bool [B, S] marks."""
        ids = inputs["input_ids"]
        where, real = answer_places(mask)
        columns = torch.where(real, where, where[:, :1]) - 1  # rows with fewer tokens repeat their first
        return cls(columns, real, ids.gather(1, where), ids, inputs["attention_mask"].bool(), rule)

    def said(self, logits: Tensor) -> Tensor:
        """The greedy tokens int64 [B, A] of logits [B, A, vocabulary]."""
        return self.rule.tokens(logits, self.ids, self.columns, self.there)

    def answers(self, ended: Paused, full_said: Tensor | None) -> tuple[Tensor, Answers]:
        """(greedy tokens [B, A], what was said beside the target and the full run's)."""
        logits = ended.logits(self.columns).float()  # [B, A, vocabulary]
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), self.wanted, reduction="none")
        loss = (losses * self.real).sum(1) / self.real.sum(1)
        said = self.said(logits)
        right = ((said == self.wanted) | ~self.real).all(1)
        agree = ((said == (said if full_said is None else full_said)) | ~self.real).all(1)
        return said, Answers(loss.double().cpu().numpy(), right.cpu().numpy(), agree.cpu().numpy())
