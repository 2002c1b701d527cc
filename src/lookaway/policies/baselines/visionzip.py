"""After VisionZip (arXiv 2412.04467): dominant visual tokens by attention, the rest of the budget for context."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ...core.decision import LayerView
from ...core.errors import SettingsError
from ...core.registry import register
from ..ranked import Keep, RankedPolicy, check_entries, one_step
from ..ranking import Ranking, Wanted
from ..ranking.attention import last_visual
from ..ranking.blind import uniform

__all__ = ["VisionZipStyle", "dominant_and_context"]


@register("visionzip-style")
@dataclass(frozen=True)
class VisionZipStyle(RankedPolicy):
    """Dominant tokens by attention within the image, evenly spaced others for context (in the manner of VisionZip).

    NOT VisionZip itself, which works in the vision tower: it ranks by the CLS token's attention there and MERGES the
    other tokens into a few. A policy sees the decoder alone, so the row's last visual token, which sees all others,
    stands in for CLS; context tokens are chosen, not merged; the earliest point is before layer 1, not before the
    decoder. Like the original it does not read the question.
    """

    keep: Keep
    """What stays in all."""
    dominant: float = 0.85
    """Share of it that is dominant; about the paper's 54 of 64."""
    layer: int = 1
    """Before it tokens leave."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_entries([self.keep], "VisionZipStyle")
        if not 0 <= self.dominant <= 1:
            raise SettingsError(f"VisionZipStyle's dominant is a share from 0 to 1, not {self.dominant}.")

    def entries(self, num_layers: int) -> tuple[Keep, ...]:
        return one_step(self.layer, self.keep, num_layers, "VisionZipStyle")

    def order(self) -> Ranking:
        score = partial(dominant_and_context, dominant=self.dominant)
        return Ranking("dominant-and-context", "attention within the image, then evenly spaced", score, looks=True)


def dominant_and_context(view: LayerView, wanted: Wanted, dominant: float) -> Tensor:
    """3 and more for dominant tokens, 1 for context, 0 for the others. [B, S]"""
    visual = view.layout.visual
    score = last_visual(view, wanted).masked_fill(~visual, -torch.inf)
    most = tuple(round(dominant * count) for count in wanted.counts)
    place = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    chosen = visual & (place < torch.tensor(most, device=visual.device)[:, None])
    rest = view.layout.visual & ~chosen
    others = uniform(_only(view, rest), Wanted(tuple(c - d for c, d in zip(wanted.counts, most, strict=True))))
    return torch.where(chosen, 3 + score, others * rest)


def _only(view: LayerView, visual: Tensor) -> LayerView:
    """The view with fewer visual tokens."""
    return replace(view, layout=replace(view.layout, visual=visual))
