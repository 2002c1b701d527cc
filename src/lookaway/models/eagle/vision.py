"""Eagle's mixture of vision towers as one vision tower, so that transformers' LLaVA runs the whole model."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .config import EagleVisionConfig
from .towers import build_tower

__all__ = ["EagleVisionModel"]


class EagleVisionModel(PreTrainedModel):
    """[B, 3, 1024, 1024] -> [B, 1024, C]: every tower's map brought to one grid, channels side by side."""

    config_class = EagleVisionConfig
    config: EagleVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _supports_sdpa = True
    _no_split_modules = ["CLIPEncoderLayer", "ConvNextStage", "SamVisionLayer", "EvaBlock"]  # noqa: RUF012

    def __init__(self, config: EagleVisionConfig) -> None:
        super().__init__(config)
        self.side = config.image_size // config.patch_size
        self.towers = nn.ModuleList(build_tower(sizes, config._attn_implementation) for sizes in config.towers)
        self.post_init()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutput:
        """`last_hidden_state` and, because LLaVA reads those, `hidden_states` of that one entry."""
        features = torch.cat([self._on_grid(tower(pixel_values)) for tower in self.towers], -1)
        return BaseModelOutput(last_hidden_state=features, hidden_states=(features,))

    def _on_grid(self, features: Tensor) -> Tensor:
        """[B, C, h, h] -> [B, side * side, C]."""
        if features.shape[-1] != self.side:
            size = (self.side, self.side)
            grid = F.interpolate(features.float(), size=size, mode="bilinear", align_corners=True)
            features = grid.to(features.dtype)
        return features.flatten(2).transpose(1, 2)
