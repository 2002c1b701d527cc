"""Eagle's towers around transformers' models: each turns pictures of 1024 x 1024 into a map of features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    Pix2StructVisionConfig,
    Pix2StructVisionModel,
    SamVisionConfig,
)
from transformers.models.convnext.modeling_convnext import ConvNextEmbeddings, ConvNextEncoder, ConvNextLayerNorm
from transformers.models.sam.modeling_sam import SamLayerNorm, SamVisionEncoder

from .eva import EvaTower

__all__ = ["build_tower"]

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def build_tower(sizes: Mapping[str, Any], attention: str | None) -> nn.Module:
    """One entry of `EagleVisionConfig.towers` -> a module from [B, 3, 1024, 1024] to [B, C, side, side]."""
    given = {name: value for name, value in sizes.items() if name != "kind"}
    kind = sizes["kind"]
    if kind == "eva":
        return EvaTower(**given)
    if kind == "convnext":
        return ConvNextTower(ConvNextConfig(**given))
    configs = {"clip": CLIPVisionConfig, "sam": SamVisionConfig, "pix2struct": Pix2StructVisionConfig}
    towers = {"clip": ClipTower, "sam": SamTower, "pix2struct": Pix2StructTower}
    config = configs[kind](**given)
    config._attn_implementation = attention if kind == "clip" else "eager"
    return towers[kind](config)


class ClipTower(CLIPVisionModel):
    """All blocks of CLIP on its patches alone: the class token leaves before the first norm, and no last norm.

    The picture is shrunk to CLIP's own 336 pixels, though the tower is called clip-448.
    """

    def forward(self, pixels: Tensor) -> Tensor:
        size = self.config.image_size
        pixels = F.interpolate(pixels.float(), size=(size, size), mode="bilinear", align_corners=True).to(pixels.dtype)
        states = self.pre_layrnorm(self.embeddings(pixels)[:, 1:])
        for block in self.encoder.layers:
            states = block(states, None)
        return _as_map(states)


class ConvNextTower(nn.Module):
    """ConvNeXt's last stage, with the norms' eps of timm's xxlarge."""

    def __init__(self, config: Any, eps: float = 1e-5) -> None:
        super().__init__()
        self.embeddings = ConvNextEmbeddings(config)
        self.encoder = ConvNextEncoder(config)
        for module in self.modules():
            if isinstance(module, ConvNextLayerNorm):
                module.eps = eps

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encoder(self.embeddings(pixels)).last_hidden_state


class ShortNeck(nn.Module):
    """SAM's neck without its second half."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(config.hidden_size, config.output_channels, 1, bias=False)
        self.layer_norm1 = SamLayerNorm(config.output_channels, data_format="channels_first")

    def forward(self, states: Tensor) -> Tensor:
        return self.layer_norm1(self.conv1(states.permute(0, 3, 1, 2)))


class SamTower(SamVisionEncoder):
    """SAM's encoder; squares of 2 x 2 places become one with four times the channels."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.neck = ShortNeck(config)

    def forward(self, pixels: Tensor) -> Tensor:
        return F.pixel_unshuffle(super().forward(pixels).last_hidden_state, 2)


class Pix2StructTower(Pix2StructVisionModel):
    """Pix2Struct's encoder, which is given the picture as its own processor cuts it up."""

    max_patches = 2048

    def forward(self, pixels: Tensor) -> Tensor:
        patches, side = flattened_patches(pixels, self.config.patch_size, self.max_patches)
        states = super().forward(flattened_patches=patches.to(pixels.dtype)).last_hidden_state
        return _as_map(states[:, : side * side])


def flattened_patches(pixels: Tensor, patch_size: int, max_patches: int) -> tuple[Tensor, int]:
    """Pictures as Pix2Struct reads them: [B, max_patches, 2 + 3 * patch_size ** 2], and patches a side.

    From CLIP's normalisation back to 0 .. 255, then with the mean and deviation of the whole picture, resized so that
    as many patches as fit under `max_patches` cover it; in front of each its row and column, counted from 1; zeros
    behind.

    Args:
        pixels: [B, 3, H, H], normalised as for CLIP.
    """
    like: dict[str, Any] = {"device": pixels.device, "dtype": pixels.dtype}
    mean, std = (torch.tensor(values, **like)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    raw = ((pixels * std + mean) * 255.0).float()
    deviation = raw.std((1, 2, 3), correction=0, keepdim=True).clamp(min=raw[0].numel() ** -0.5)
    raw = (raw - raw.mean((1, 2, 3), keepdim=True)) / deviation
    height = pixels.shape[-1]
    side = min(int((max_patches * (patch_size / height) ** 2) ** 0.5 * height / patch_size), max_patches)
    resized = F.interpolate(raw, size=(side * patch_size,) * 2, mode="bilinear", align_corners=False, antialias=True)
    cut = resized.unflatten(3, (side, patch_size)).unflatten(2, (side, patch_size))  # [B, 3, rows, p, columns, p]
    patches = cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    places = torch.arange(1, side + 1, device=pixels.device, dtype=patches.dtype)
    rows, columns = places.repeat_interleave(side), places.repeat(side)
    numbered = torch.cat([torch.stack([rows, columns], -1).expand(len(patches), -1, -1), patches], -1)
    return F.pad(numbered, (0, 0, 0, max_patches - side * side)), side


def _as_map(states: Tensor) -> Tensor:
    """[B, side * side, C] -> [B, C, side, side]."""
    side = round(states.shape[1] ** 0.5)
    return states.transpose(1, 2).unflatten(2, (side, side))
