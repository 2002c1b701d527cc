"""Tiny LLaVAs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .sizes import IMAGE, TEXT, VIDEO, VISION, Recipe

GRIDS = [[16, 32], [32, 16], [48, 16]]


def squares(rows: Sequence[Sequence[int]], draw: torch.Generator) -> dict[str, Tensor]:
    """Pictures of 16 x 16, whatever their height was."""
    return {"pixel_values": torch.randn(sum(map(len, rows)), 3, 16, 16, generator=draw)}


def _any_resolution(rows: Sequence[Sequence[int]], draw: torch.Generator) -> dict[str, Tensor]:
    heights = [height for row in rows for height in row]
    return {
        "pixel_values": torch.randn(len(heights), 4, 3, 16, 16, generator=draw),
        "image_sizes": torch.tensor([[height, 16] for height in heights]),
    }


def _onevision_pictures(rows: Sequence[Sequence[int]], draw: torch.Generator) -> dict[str, Tensor]:
    return {**_any_resolution(rows, draw), "batch_num_images": torch.tensor([len(row) for row in rows])}


def own_size(rows: Sequence[Sequence[int]], draw: torch.Generator) -> dict[str, Tensor]:
    """Pictures at their own size, padded to the largest, as Pixtral's processor gives them."""
    heights = [height for row in rows for height in row]
    pixels = torch.randn(len(heights), 3, max(heights), 16, generator=draw)
    return {"pixel_values": pixels, "image_sizes": torch.tensor([[height, 16] for height in heights])}


def _clip() -> Any:
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(**VISION, projection_dim=16)


def pixtral_tower() -> Any:
    from transformers import PixtralVisionConfig

    return PixtralVisionConfig(**{**VISION, "image_size": 64}, head_dim=8)


def _llava(layers: int) -> Any:
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    text = LlamaConfig(**TEXT, num_hidden_layers=layers)
    config = LlavaConfig(vision_config=_clip(), text_config=text, image_token_id=IMAGE, image_seq_length=16)
    return LlavaForConditionalGeneration, config


def _pixtral(layers: int) -> Any:
    from transformers import LlavaConfig, LlavaForConditionalGeneration, MistralConfig

    config = LlavaConfig(
        vision_config=pixtral_tower(),
        text_config=MistralConfig(**TEXT, num_hidden_layers=layers, sliding_window=None),
        image_token_id=IMAGE,
        image_seq_length=1,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return LlavaForConditionalGeneration, config


def _llava_next(layers: int) -> Any:
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration, MistralConfig

    config = LlavaNextConfig(
        vision_config=_clip(),
        text_config=MistralConfig(**TEXT, num_hidden_layers=layers, sliding_window=None),
        image_token_id=IMAGE,
        image_grid_pinpoints=GRIDS,
    )
    return LlavaNextForConditionalGeneration, config


def _llava_next_video(layers: int) -> Any:
    from transformers import LlamaConfig, LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

    config = LlavaNextVideoConfig(
        vision_config=_clip(),
        text_config=LlamaConfig(**TEXT, num_hidden_layers=layers),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_grid_pinpoints=GRIDS,
    )
    return LlavaNextVideoForConditionalGeneration, config


def _llava_onevision(layers: int) -> Any:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        Qwen2Config,
        SiglipVisionConfig,
    )

    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**VISION),
        text_config=Qwen2Config(**TEXT, num_hidden_layers=layers),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_grid_pinpoints=GRIDS,
        vision_feature_layer=-1,
    )
    return LlavaOnevisionForConditionalGeneration, config


def _vipllava(layers: int) -> Any:
    from transformers import LlamaConfig, VipLlavaConfig, VipLlavaForConditionalGeneration

    config = VipLlavaConfig(
        vision_config=_clip(),
        text_config=LlamaConfig(**TEXT, num_hidden_layers=layers),
        image_token_id=IMAGE,
        image_seq_length=16,
        vision_feature_layers=[-1, -2],
    )
    return VipLlavaForConditionalGeneration, config


def _video_llava(layers: int) -> Any:
    from transformers import LlamaConfig, VideoLlavaConfig, VideoLlavaForConditionalGeneration

    config = VideoLlavaConfig(
        vision_config=_clip(),
        text_config=LlamaConfig(**TEXT, num_hidden_layers=layers),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
    )
    return VideoLlavaForConditionalGeneration, config


def _video_llava_pictures(rows: Sequence[Sequence[int]], draw: torch.Generator) -> dict[str, Tensor]:
    return {"pixel_values_images": squares(rows, draw)["pixel_values"]}


TINY = {
    "llava": Recipe(_llava, squares, any_size=False),
    "pixtral": Recipe(_pixtral, own_size, family="llava"),
    "llava_next": Recipe(_llava_next, _any_resolution),
    "llava_onevision": Recipe(_llava_onevision, _onevision_pictures),
    "llava_next_video": Recipe(_llava_next_video, _any_resolution),
    "vipllava": Recipe(_vipllava, squares, any_size=False),
    "video_llava": Recipe(_video_llava, _video_llava_pictures, any_size=False),
}
