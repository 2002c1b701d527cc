"""LLaVA and its children: a projected grid of visual tokens in a Llama-like decoder."""

from __future__ import annotations

from typing import Any

from ..base import Anatomy, VisionTower
from ..registry import family
from .parts import tower_attention, usual


@family("llava", "LLaVA 1.5, Pixtral", "llava-hf/llava-1.5-7b-hf", "mistral-community/pixtral-12b")
def llava(model: Any) -> Anatomy:
    """One picture, one fixed grid of visual tokens; with a Pixtral tower, as many as the picture's size asks for."""
    layer, rule = model.config.vision_feature_layer, model.config.vision_feature_select_strategy
    return usual(model, grid=fixed_grid(model.config), vision=_vision(model, layer, rule))


@family("llava_next", "LLaVA-NeXT", "llava-hf/llava-v1.6-mistral-7b-hf", "llava-hf/llama3-llava-next-8b-hf")
def llava_next(model: Any) -> Anatomy:
    """Any resolution, so the number of visual tokens follows from the picture's size."""
    return usual(model)


@family("llava_onevision", "LLaVA-OneVision", "llava-hf/llava-onevision-qwen2-7b-ov-hf")
def llava_onevision(model: Any) -> Anatomy:
    """Any resolution, several pictures, videos."""
    return usual(model, other_visual_ids=(model.config.video_token_id,))


@family("llava_next_video", "LLaVA-NeXT-Video", "llava-hf/LLaVA-NeXT-Video-7B-hf")
def llava_next_video(model: Any) -> Anatomy:
    """LLaVA-NeXT with videos, whose frames are pooled."""
    return usual(model, other_visual_ids=(model.config.video_token_id,))


@family("vipllava", "VipLLaVA", "llava-hf/vip-llava-7b-hf")
def vipllava(model: Any) -> Anatomy:
    """LLaVA that reads several layers of the vision tower: visual prompts drawn into the picture."""
    layers = model.config.vision_feature_layers
    layer = layers if isinstance(layers, int) else layers[0]
    return usual(model, grid=fixed_grid(model.config), vision=_vision(model, layer, "default"))


@family("video_llava", "Video-LLaVA", "LanguageBind/Video-LLaVA-7B-hf")
def video_llava(model: Any) -> Anatomy:
    """Pictures and videos through towers of their own; every frame is a fixed number of visual tokens."""
    return usual(model, other_visual_ids=(model.config.video_token_id,))


def fixed_grid(config: Any) -> tuple[int, int] | None:
    """(rows, columns) of a LLaVA's visual tokens; None where the vision tower does not give a plain square."""
    vision = config.vision_config
    if getattr(vision, "model_type", None) == "internvl_vision":  # stretched onto the picture that the model is given
        side = round(config.image_seq_length**0.5)
        return (side, side) if side * side == config.image_seq_length else None
    size, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    if not isinstance(size, int) or not isinstance(patch, int) or size % patch:
        return None
    count = getattr(config, "image_seq_length", None)
    side = size // patch
    return (side, side) if count in (None, side * side) else None


def _vision(model: Any, layer: Any, rule: str) -> VisionTower | None:
    """The tower's attention where each of its tokens but CLIP's class token becomes a visual token; else None."""
    kind = model.config.vision_config.model_type
    has_class_token = kind == "clip_vision_model"
    one_to_one = (has_class_token and rule == "default") or (kind == "siglip_vision_model" and rule == "full")
    if not one_to_one or not isinstance(layer, int):
        return None
    return tower_attention(model.model.vision_tower, layer, has_class_token)
