"""Rankings by attention in the layer before: a few query rows on all keys, O(Q S d), never an S x S map.

The softmax runs over all keys that the layer saw, so a score is the share of attention that a token really got there;
a token that its layer dropped later counts in the sum but not in the order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...core.attention_inputs import last_text_slot, text_rows
from ...core.decision import LayerView
from ...core.layout import TokenLayout
from .base import Wanted, attention_inputs_of, ranking
from .states import unit_states

__all__ = ["last_token", "last_visual", "question_mean", "rater_map", "text_raters"]

CHUNK = 64
"""Query rows whose weights are in memory at once."""


@ranking("last-token", "attention of the last prompt token, mean over heads", looks=True)
def last_token(view: LayerView, wanted: Wanted) -> Tensor:
    """Attention of the last prompt token on each slot, mean over heads (FastV, PyramidDrop). [B, S]"""
    return _last(view, rotary=True)


@ranking("last-token-no-rotary", "the same, as if all tokens stood at one position", looks=True)
def last_token_no_rotary(view: LayerView, wanted: Wanted) -> Tensor:
    """`last_token` without the rotary phase, whose pull towards near tokens keeps the bottom of the image (FEATHER)."""
    return _last(view, rotary=False)


@ranking("question-mean", "attention of the question's tokens, mean over tokens and heads", looks=True)
def question_mean(view: LayerView, wanted: Wanted) -> Tensor:
    """Attention of the text after the image on each slot, mean over its tokens and over heads. [B, S]"""
    return _over_rows(view, question_rows(view.layout), _head_mean)


@ranking("question-mean-no-rotary", "the same, as if all tokens stood at one position", looks=True)
def question_mean_no_rotary(view: LayerView, wanted: Wanted) -> Tensor:
    return _over_rows(view, question_rows(view.layout), _head_mean, rotary=False)


@ranking("question-head-max", "attention of the question's tokens, mean over tokens of the best head", looks=True)
def question_head_max(view: LayerView, wanted: Wanted) -> Tensor:
    """As `question_mean`, but of each question token its most interested head alone counts. [B, S]"""
    return _over_rows(view, question_rows(view.layout), _head_max)


@ranking("last-visual", "attention of the row's last visual token: the prompt's words play no part", looks=True)
def last_visual(view: LayerView, wanted: Wanted) -> Tensor:
    """Attention of the last visual token, the only one that sees all others; used in place of a CLS token. [B, S]"""
    rows = last_text_slot(view.layout.visual)[:, None]
    return attention_inputs_of(view).weights(rows)[:, :, 0].mean(1)


@ranking("text-raters", "attention of the question's tokens that are close to the image (SparseVLM)", looks=True)
def text_raters(view: LayerView, wanted: Wanted) -> Tensor:
    """Attention, mean over heads and over those question tokens that are more like the image than the mean one. [B, S]

    SparseVLM (arXiv 2410.04417): each visual token spreads a softmax over the text tokens by their dot products; a text
    token with more than the mean share is a rater. Here states are divided by their root mean square and dot products
    by sqrt(D), because a few entries of the residual stream are huge.
    """
    return _over_rows(view, text_rows(_raters(view)), _head_mean)


def rater_map(view: LayerView) -> tuple[Tensor, Tensor]:
    """The rows of `text_raters`, mean over heads: `(weights [B, Q, S], valid bool [B, Q])`."""
    slots, valid = text_rows(_raters(view))
    return attention_inputs_of(view).weights(slots).mean(1), valid


def _raters(view: LayerView) -> Tensor:
    """Question tokens that are more like the image than the mean one, bool [B, S]."""
    visual = view.layout.visual
    slots, valid = question_rows(view.layout)  # [B, T]
    states = unit_states(view)
    chosen = states.gather(1, slots[:, :, None].expand(-1, -1, states.shape[2]))
    near = (states @ chosen.transpose(1, 2)) * states.shape[2] ** 0.5  # [B, S, T]
    share = near.masked_fill(~valid[:, None], -torch.inf).softmax(-1) * visual[:, :, None]
    share = share.sum(1) / visual.sum(1, keepdim=True).clamp(min=1)  # [B, T]; sums to 1 over a row's text
    # Where all are alike, rounding must not leave a row without a rater.
    rater = valid & (share * valid.sum(1, keepdim=True) >= 1 - 1e-5)
    return torch.zeros_like(visual).scatter(1, slots, rater)


def question_of(layout: TokenLayout) -> Tensor:
    """Text after the first visual token, bool [B, S]; a row without such text gives its last token, one without a
    visual token nothing."""
    has_visual = layout.visual.any(1, keepdim=True)
    question = layout.question_mask() & has_visual
    slots = torch.arange(question.shape[1], device=question.device)
    last = slots == last_text_slot(layout.text)[:, None]
    return torch.where(question.any(1, keepdim=True), question, last & has_visual)


def question_rows(layout: TokenLayout) -> tuple[Tensor, Tensor]:
    """The slots of `question_of` as rows, as `text_rows` gives them. No host read where the layout knows how long its
    questions are, which it counts without their last token."""
    known = layout.facts.longest_question
    return text_rows(question_of(layout), None if known is None else known + 1)


def _last(view: LayerView, rotary: bool) -> Tensor:
    rows = last_text_slot(view.layout.text)[:, None]
    return attention_inputs_of(view).weights(rows, rotary)[:, :, 0].mean(1)


def _over_rows(
    view: LayerView, rows: tuple[Tensor, Tensor], merge: Callable[[Tensor], Tensor], rotary: bool = True
) -> Tensor:
    """Mean, over query slots (as `text_rows` gives them), of their weights with merged heads: [B, S]."""
    attention_inputs = attention_inputs_of(view)
    slots, valid = rows
    total = view.hidden.new_zeros(view.layout.visual.shape, dtype=torch.float32)
    for start in range(0, slots.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        weights = merge(attention_inputs.weights(slots[:, part], rotary))  # [B, q, S]
        total += (weights * valid[:, part, None]).sum(1)
    return total / valid.sum(1, keepdim=True).clamp(min=1)


def _head_mean(weights: Tensor) -> Tensor:
    return weights.mean(1)


def _head_max(weights: Tensor) -> Tensor:
    return weights.amax(1)
