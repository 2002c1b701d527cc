"""A ranking by diversity among what the question asks about: greedy choice under a determinantal point process."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.decision import LayerView
from .base import Wanted, ranking
from .states import text_similarity, unit_states

__all__ = ["conditional_diversity", "greedy_determinant", "min_max"]

LEAST = 1e-10
"""Squared volume below which a token adds nothing; it keeps the division defined where fewer directions are left than
tokens are wanted."""


@ranking("conditional-diversity", "the most diverse tokens, each weighed by its likeness to the question (CDPruner)")
def conditional_diversity(view: LayerView, wanted: Wanted) -> Tensor:
    """Minus the step at which a greedy choice takes each visual token; -inf: never. [B, S]

    CDPruner (arXiv 2506.10967): with x the states of length 1 and r their likeness to the question, brought to [0, 1]
    within the row, the chosen set makes the determinant of L[i, j] = r[i] (x[i] . x[j]) r[j] large.
    """
    visual = view.layout.visual
    relevance = min_max(text_similarity(view, wanted), visual)
    return greedy_determinant(unit_states(view), relevance, visual, max(wanted.counts, default=0))


def min_max(scores: Tensor, among: Tensor) -> Tensor:
    """Scores [B, S] brought to [0, 1] over the slots of each row in `among` bool [B, S]; 1 where all are alike."""
    lowest = scores.masked_fill(~among, torch.inf).amin(1, keepdim=True)
    highest = scores.masked_fill(~among, -torch.inf).amax(1, keepdim=True)
    spread = highest - lowest
    return torch.where(spread > 0, (scores - lowest) / spread.clamp(min=1e-12), torch.ones_like(scores))


def greedy_determinant(states: Tensor, quality: Tensor, allowed: Tensor, steps: int) -> Tensor:
    """Order of a greedy choice that makes the determinant of the chosen block of L largest at each step.

    L[i, j] = quality[i] (states[i] . states[j]) quality[j]. What a token would add is the square of its part that is
    not spanned by those chosen, updated a step at a time by the row of a Cholesky factor (Chen, Zhang, Zhou 2018); L
    itself is never built.

    Args:
        states: [B, S, D], length 1. quality: [B, S], not negative. allowed: bool [B, S], slots to choose from.
        steps: how many to choose.

    Returns:
        [B, S]: minus the step (0 first) at which the slot was chosen, -inf where it was not.
    """
    rows = torch.arange(len(states), device=states.device)
    score = torch.full(allowed.shape, -torch.inf, device=states.device)
    weighed = states * quality[:, :, None].to(states.dtype)  # [B, S, D]: L = weighed weighed^T
    left = weighed.square().sum(2)  # [B, S]: what each token would add
    factor = weighed.new_zeros(len(states), steps, states.shape[1])  # [B, steps, S]
    for step in range(steps):
        open_slots = allowed & (score == -torch.inf)
        pick = left.masked_fill(~open_slots, -torch.inf).argmax(1)  # [B]
        first_time = score[rows, pick] == -torch.inf  # a spent row picks again
        score[rows, pick] = torch.where(first_time, -float(step), score[rows, pick])
        along = (weighed @ weighed[rows, pick][:, :, None])[:, :, 0]  # row of L
        known = (factor[:, :step] * factor[rows, :step, pick][:, :, None]).sum(1)
        part = (along - known) / left[rows, pick].clamp(min=LEAST).sqrt()[:, None]
        factor[:, step] = part
        left = (left - part.square()).clamp(min=0.0)
    return score.masked_fill(~allowed, -torch.inf)
