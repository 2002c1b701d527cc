"""Tiny models of decoders that mix positions by convolutions: LFM2-VL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .sizes import IMAGE, TEXT, VISION, Recipe

PATCH = 4
SIDE = 8
"""Patches in a row of a picture; 2 x 2 of them become one visual token."""


def _lfm2_vl(layers: int) -> Any:
    from transformers import Lfm2Config, Lfm2VlConfig, Lfm2VlForConditionalGeneration, Siglip2VisionConfig

    kinds = ["full_attention" if layer % 2 else "conv" for layer in range(layers)]
    tower = {name: value for name, value in VISION.items() if name != "image_size"}
    config = Lfm2VlConfig(
        vision_config=Siglip2VisionConfig(**{**tower, "patch_size": PATCH}, num_patches=16, vision_use_head=False),
        text_config=Lfm2Config(**TEXT, num_hidden_layers=layers, layer_types=kinds, block_auto_adjust_ff_dim=False),
        image_token_id=IMAGE,
        projector_hidden_size=32,
    )
    return Lfm2VlForConditionalGeneration, config


def _patches(rows: Sequence[Sequence[int]], draw: torch.Generator) -> dict[str, Tensor]:
    """Lists of patches, padded to the longest, with the grid of each picture."""
    grids = torch.tensor([[height // 2, SIDE] for row in rows for height in row])
    counts = grids.prod(1)
    mask = (torch.arange(int(counts.max())) < counts[:, None]).long()
    pixels = torch.randn(len(grids), mask.shape[1], 3 * PATCH**2, generator=draw) * mask[:, :, None]
    return {"pixel_values": pixels, "spatial_shapes": grids, "pixel_attention_mask": mask}


TINY_BEFORE = {"lfm2_vl": Recipe(_lfm2_vl, _patches)}
