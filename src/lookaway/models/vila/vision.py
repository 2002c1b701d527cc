"""VILA 1.5's image side as one vision tower: SigLIP, several scales where the model has them, and 2 x 2 merging.

What stands behind it, two linear layers with GELU between them, is the projector of transformers' LLaVA.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, SiglipVisionConfig, SiglipVisionModel
from transformers.modeling_outputs import BaseModelOutput

from .config import VilaVisionConfig

__all__ = ["VilaVisionModel", "merge_places"]


class VilaVisionModel(PreTrainedModel):
    """[B, 3, H, H] -> [B, (side / 2) ** 2, hidden_size], `side` being SigLIP's, rounded up to an even number."""

    config_class = VilaVisionConfig
    config: VilaVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _supports_sdpa = True
    _no_split_modules = ["SiglipEncoderLayer"]  # noqa: RUF012

    def __init__(self, config: VilaVisionConfig) -> None:
        super().__init__(config)
        inner = SiglipVisionConfig(**config.tower)
        inner._attn_implementation = config._attn_implementation
        self.tower = SiglipVisionModel(inner)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutput:
        """`last_hidden_state` and, because LLaVA reads those, `hidden_states` of that one entry."""
        scales = self.config.scales
        features = self._map(pixel_values) if scales is None else self._over_scales(pixel_values, scales)
        states = self.norm(merge_places(features))
        return BaseModelOutput(last_hidden_state=states, hidden_states=(states,))

    def _map(self, pixels: Tensor) -> Tensor:
        """[B, 3, h, h] -> [B, C, side, side]."""
        states = self.tower(pixels, output_hidden_states=True).hidden_states[self.config.select_layer]
        side = round(states.shape[1] ** 0.5)
        return states.transpose(1, 2).unflatten(2, (side, side))

    def _over_scales(self, pixels: Tensor, scales: list[int]) -> Tensor:
        """The maps of all scales, brought to the smallest one's grid, channels side by side."""
        maps = []
        for scale in scales:
            resized = F.interpolate(pixels.float(), size=(scale, scale), mode="bicubic").to(pixels.dtype)
            pieces = -(-scale // self.config.split_size)
            size = scale // pieces
            cut = resized.unflatten(3, (pieces, size)).unflatten(2, (pieces, size))  # [B, 3, n, h, n, h]
            seen = self._map(cut.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)).unflatten(0, (-1, pieces, pieces))
            maps.append(seen.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3))  # [B, C, n * side, n * side]
        grid = maps[0].shape[-2:]
        pooled = [F.interpolate(one.float(), size=grid, mode="area").to(one.dtype) for one in maps]
        return torch.cat(pooled, 1)


def merge_places(features: Tensor) -> Tensor:
    """2 x 2 places become one with four times the channels, and the places come column by column.

    That order is the published one of VILA 1.5; NVILA, under the same name, goes row by row. An odd side is padded
    with zeros at the bottom and on the right.

    Args:
        features: [B, C, side, side].
    """
    odd = features.shape[-1] % 2
    padded = F.pad(features, (0, odd, 0, odd))
    squares = padded.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # [B, C, rows, 2, columns, 2]
    return squares.permute(0, 4, 2, 3, 5, 1).flatten(3).flatten(1, 2)
