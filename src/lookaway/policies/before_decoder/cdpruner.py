"""CDPruner (arXiv 2506.10967): the subset stays that is most diverse among what the instruction asks about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.decision import LayerView
from ...core.registry import register
from ..ranked import OneStepPolicy
from ..ranking import RANKINGS, Ranking, Wanted
from ..ranking.conditional import conditional_diversity, greedy_determinant, min_max
from ..ranking.states import text_similarity, unit_states
from .pictures import pictures_of

__all__ = ["CDPruner", "each_picture", "shared_counts"]


@register("cdpruner")
@dataclass(frozen=True)
class CDPruner(OneStepPolicy):
    """Before the decoder, tokens stay that are diverse and like the question: a conditional DPP (CDPruner).

    The likeness to the instruction is that of the projector's outputs to the embeddings of the question's words: the
    form for models whose vision tower has no text tower beside it. A LLaVA checkpoint does not hold CLIP's text tower
    either, which the paper loads besides. Before the decoder each picture is chosen from by itself and keeps its part
    of the row's number; inside it (`layer=1` and later) the choice is one for the row.
    """

    layer: int = 0
    """Before it tokens leave; 0: they never enter the decoder."""

    def order(self) -> Ranking:
        inside = RANKINGS["conditional-diversity"]
        return inside if self.layer else Ranking(inside.name, inside.line, each_picture)


def each_picture(view: LayerView, wanted: Wanted) -> Tensor:
    """`conditional_diversity` picture by picture, the relevance scaled over all pictures of the row. [B, S]

    A picture's share of the row's number is that of its tokens (`shared_counts`). What is not chosen comes behind, by
    relevance, for rows from which other tokens left before.
    """
    pictures = pictures_of(view.layout)
    if pictures is None:
        return conditional_diversity(view, wanted)
    relevance = min_max(text_similarity(view, wanted), view.layout.visual)
    quotas = [
        quota
        for spans, count in zip(view.layout.spans, wanted.counts, strict=True)
        for quota in shared_counts(count, [span.length for span in spans])
    ]
    steps = max(quotas)
    quality = pictures.of(relevance)
    order = greedy_determinant(pictures.of(unit_states(view)), quality, pictures.real, steps)  # [P, V]
    chosen = order > -torch.tensor(quotas, device=order.device)[:, None]
    return pictures.spread(torch.where(chosen, order, quality.to(order.dtype) - steps - 1), torch.zeros_like(relevance))


def shared_counts(count: int, lengths: Sequence[int]) -> list[int]:
    """`count` shared between pictures in proportion to their tokens; what is over goes to the largest remainders."""
    total = sum(lengths)
    shares = [count * length // total for length in lengths]
    by_remainder = sorted(range(len(lengths)), key=lambda place: -(count * lengths[place] % total))
    for place in by_remainder[: count - sum(shares)]:
        shares[place] += 1
    return shares
