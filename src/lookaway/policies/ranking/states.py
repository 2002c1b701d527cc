"""Rankings by states and keys: likeness to the text, norms of keys, diversity, duplication. No attention map at all."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...core.decision import LayerView
from .base import Wanted, attention_inputs_of, ranking

__all__ = ["diversity", "duplication", "farthest_first", "key_norm", "text_similarity", "unit_states"]

CHUNK = 256
"""Slots whose likeness to all others is in memory at once."""


def unit_states(view: LayerView) -> Tensor:
    """States entering the layer, of length 1, padding 0; fp32 [B, S, D]."""
    return normalize(view.hidden.float().masked_fill(view.layout.padding[:, :, None], 0.0), dim=2)


@ranking("text-similarity", "cosine of the token's state to the question's mean state")
def text_similarity(view: LayerView, wanted: Wanted) -> Tensor:
    """Cosine of each state to the mean direction of the text after the image. [B, S]"""
    states, question = unit_states(view), view.layout.question_mask()
    mean = (states * question[:, :, None]).sum(1)  # its length changes no order
    return (states @ mean[:, :, None])[:, :, 0]


@ranking("key-norm", "length of the token's key, mean over heads; long keys stay", looks=True)
def key_norm(view: LayerView, wanted: Wanted) -> Tensor:
    """Length of each key in the layer before, mean over KV heads; the rotary phase does not change it. [B, S]"""
    return attention_inputs_of(view).keys.float().norm(dim=3).mean(1)


@ranking("key-norm-low", "the same, but short keys stay", looks=True)
def key_norm_low(view: LayerView, wanted: Wanted) -> Tensor:
    return -key_norm(view, wanted)


@ranking("diversity", "greedy max-min: always the token least like those chosen (DivPrune)")
def diversity(view: LayerView, wanted: Wanted) -> Tensor:
    """Minus the step at which a greedy max-min choice by cosine takes each visual token; -inf: never. [B, S]

    DivPrune (arXiv 2503.02175): the first is the token whose nearest neighbour is farthest, each next the one whose
    nearest chosen token is farthest.
    """
    return farthest_first(unit_states(view), view.layout.visual, max(wanted.counts, default=0))


@ranking("duplication", "tokens least like a few pivots of long key stay (as DART)", looks=True)
def duplication(view: LayerView, wanted: Wanted) -> Tensor:
    """`duplication_to` 8 pivots. [B, S]"""
    return duplication_to(view, wanted, pivots=8)


def duplication_to(view: LayerView, wanted: Wanted, pivots: int) -> Tensor:
    """Minus the largest cosine to any pivot. Pivots are the visual tokens of longest key; they stay. [B, S]"""
    visual, states = view.layout.visual, unit_states(view)
    length = key_norm(view, wanted).masked_fill(~visual, -torch.inf)
    best = length.topk(min(pivots, length.shape[1]), dim=1).indices  # [B, P]
    chosen = states.gather(1, best[:, :, None].expand(-1, -1, states.shape[2]))
    real = visual.gather(1, best)  # rows of few visual tokens have fewer pivots
    likeness = (states @ chosen.transpose(1, 2)).masked_fill(~real[:, None], -2.0).amax(2)
    is_pivot = torch.zeros_like(visual).scatter(1, best, real)
    longest = length.amax(1, keepdim=True).clamp(min=1e-12)
    return torch.where(is_pivot, 2 + length / longest, -likeness)


def farthest_first(states: Tensor, allowed: Tensor, steps: int) -> Tensor:
    """Order of a greedy max-min choice.

    Args:
        states: [B, S, D], length 1. allowed: bool [B, S], slots to choose from. steps: how many to choose.

    Returns:
        [B, S]: minus the step (0 first) at which the slot was chosen, -inf where it was not.
    """
    rows = torch.arange(len(states), device=states.device)
    score = torch.full(allowed.shape, -torch.inf, device=states.device)
    # Largest cosine to another (first) or to a chosen (later) slot; the next is where it is least.
    closeness = _nearest(states, allowed).masked_fill(~allowed, torch.inf)
    for step in range(steps):
        pick = closeness.argmin(1)  # [B]
        score[rows, pick] = score[rows, pick].clamp(min=-float(step))  # a spent row picks again
        cosine = (states @ states[rows, pick][:, :, None])[:, :, 0]
        closeness = cosine if step == 0 else torch.maximum(closeness, cosine)
        closeness = closeness.masked_fill(~allowed | (score > -torch.inf), torch.inf)
    return score


def _nearest(states: Tensor, allowed: Tensor) -> Tensor:
    """Largest cosine of each slot to another allowed one, [B, S]."""
    slots = torch.arange(states.shape[1], device=states.device)
    parts = []
    for start in range(0, len(slots), CHUNK):
        some = slots[start : start + CHUNK]
        cosine = states[:, some] @ states.transpose(1, 2)  # [B, c, S]
        cosine = cosine.masked_fill(~allowed[:, None] | (some[:, None] == slots), -torch.inf)
        parts.append(cosine.amax(2))
    return torch.cat(parts, dim=1)
