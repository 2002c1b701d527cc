"""SparseVLM (arXiv 2410.04417): text tokens that are close to the image rate the visual tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ...core.decision import Decision, LayerView
from ...core.errors import SettingsError
from ...core.registry import register
from ..ranked import Keep, RankedPolicy, count_of, originals, steps_to_entries
from ..ranking import RANKINGS, Ranking
from ..ranking.attention import rater_map
from .clusters import keep_and_merge

__all__ = ["SparseVLM", "adaptive_counts"]


@register("sparsevlm")
@dataclass(frozen=True)
class SparseVLM(RankedPolicy):
    """Question tokens that are like the image rate its tokens; a few steps keep the best and merge others (SparseVLM).

    Raters are chosen from the states at each step, not once from the embeddings. The first version of the method
    renumbers positions, the second keeps them; here they are kept.
    """

    steps: Mapping[int, Keep]
    """Layer -> what it and the layers after it keep, merged tokens included; with `scale`, at most that."""
    scale: float | None = None
    """Factor of the adaptive number: a step removes this times (visual tokens - rank of the raters' attention map).
    None: the numbers of `steps`."""
    recycle: float = 0.3
    """Share of the tokens that leave, the best of them, that is merged instead of lost; 0: none."""
    groups: float = 0.1
    """Merged tokens for each token that goes into one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            steps = {int(layer): keep for layer, keep in dict(self.steps).items()}  # JSON's keys are text
        except (TypeError, ValueError):
            raise SettingsError(f"SparseVLM's steps map layers to what is kept, not {self.steps!r}.") from None
        object.__setattr__(self, "steps", dict(sorted(steps.items())))
        if not 0 <= self.recycle <= 1 or not 0 < self.groups <= 1:
            raise SettingsError(
                f"SparseVLM's recycle is a share from 0 to 1 and its groups one above 0, not {self.recycle} and "
                f"{self.groups}."
            )
        if self.scale is not None and not self.scale > 0:
            raise SettingsError(f"SparseVLM's scale is a factor above 0, or None for set numbers, not {self.scale}.")

    def entries(self, num_layers: int) -> tuple[Keep, ...]:
        return steps_to_entries(self.steps, num_layers, "SparseVLM")

    def order(self) -> Ranking:
        return RANKINGS["text-raters"]

    def decide(self, view: LayerView) -> Decision:
        entries, totals = self.entries(view.num_layers), originals(view)
        most = tuple(count_of(entries[view.layer], total) for total in totals)
        if not any(most) or (self.scale is None and not self.recycle):
            return super().decide(view)
        visual, left = view.layout.visual, view.layout.visual_counts
        weights, valid = rater_map(view)
        counts = torch.minimum(torch.tensor(most, device=visual.device), left)
        if self.scale is not None:
            counts = torch.minimum(counts, adaptive_counts(weights, valid, visual, self.scale))
        scores = (weights * valid[:, :, None]).sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
        return keep_and_merge(view, scores, counts, self.recycle, self.groups)

    def to_config(self) -> dict[str, Any]:
        return {**super().to_config(), "steps": {str(layer): keep for layer, keep in self.steps.items()}}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: Any = None) -> Self:
        if "positions" in config and "recycle" not in config:  # saved whole by 0.1, which merged nothing
            config = {**config, "recycle": 0.0}
        return super().from_config(config, tensors)

    def __hash__(self) -> int:
        return hash((tuple(self.steps.items()), self.scale, self.recycle, self.groups))


def adaptive_counts(weights: Tensor, valid: Tensor, visual: Tensor, scale: float) -> Tensor:
    """Visual tokens that stay where scale (tokens - rank of the raters' attention on them) leave; one at least. [B]

    Args:
        weights: [B, Q, S], rows of the attention map. valid: bool [B, Q], rows that are raters. visual: bool [B, S].
    """
    rank = torch.linalg.matrix_rank(weights.float() * valid[:, :, None] * visual[:, None])
    total = visual.sum(1)
    leaving = (scale * (total - rank)).round().long().clamp(min=0)
    return torch.maximum(total - leaving, total.clamp(max=1))
