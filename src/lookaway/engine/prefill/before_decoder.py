"""What removal before the decoder (layer 0) needs beyond that before any other layer.

Layer 0's call is narrowed as any layer's is: the decoder runs on a shorter prompt, at the original positions. What is
special: deepstack families add features of the vision tower to the visual tokens between their first layers, which now
go to the tokens that are left, at their new slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..cache.kept import Kept

__all__ = ["Deepstack"]


@dataclass(frozen=True, eq=False)
class Deepstack:
    """Features that a decoder adds to its visual tokens behind its first layers, added to those that are left."""

    visual: Tensor  # bool [B, S]
    """Visual tokens of the whole prompt."""
    features: tuple[Tensor, ...]
    """One a layer, each [N, D] over the N visual tokens of the batch, row by row."""

    @classmethod
    def taken_from(cls, kwargs: dict[str, Any]) -> tuple[Deepstack | None, dict[str, Any]]:
        """The features in a decoder's keyword arguments, and the arguments without them; (None, as they are) where
        there are none."""
        features, visual = kwargs.get("deepstack_visual_embeds"), kwargs.get("visual_pos_masks")
        if features is None or visual is None:
            return None, kwargs
        return cls(visual, tuple(features)), {**kwargs, "deepstack_visual_embeds": None}

    def add(self, layer: int, hidden: Tensor, kept: Kept | None) -> Tensor:
        """The states that leave `layer`, [B, K, D], with what the decoder adds there.

        Args:
            kept: which columns of the prompt they are; None: all.
        """
        if layer >= len(self.features):
            return hidden
        visual = self.visual.to(hidden.device)
        number = (visual.flatten().cumsum(0) - 1).clamp(min=0).view(visual.shape)  # which of the N
        if kept is not None:
            index, valid = kept.index.to(hidden.device), kept.valid.to(hidden.device)
            number, visual = number.gather(1, index), visual.gather(1, index) & valid
        features = self.features[layer].to(hidden.device, hidden.dtype)
        return hidden + features[number] * visual[:, :, None]
