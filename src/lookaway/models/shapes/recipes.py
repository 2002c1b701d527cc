"""How each kind of published model is built from sizes, with transformers' own classes, and its synthetic pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .sizes import Decoder, Tower

__all__ = ["internvl", "llava", "llava_next", "patches", "qwen2_5_vl", "qwen3_vl", "smolvlm", "squares", "tiles"]

IMAGE = 5
"""Id of the image token: the shapes have no tokenizer, so it is one that a smaller vocabulary has too."""
Built = tuple[Any, Any]
"""(model class, config)"""
Pictures = Callable[[int, torch.Generator], dict[str, Tensor]]
"""(number of pictures, randomness) -> the inputs that a processor would make of them."""


def _text(decoder: Decoder) -> dict[str, Any]:
    return {
        "vocab_size": decoder.vocabulary, "hidden_size": decoder.hidden, "intermediate_size": decoder.ffn,
        "num_hidden_layers": decoder.layers, "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads, "max_position_embeddings": 32768, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip


def _vision(tower: Tower, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": tower.hidden, "intermediate_size": tower.ffn, "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads, **more,
    }  # fmt: skip


def _clip(tower: Tower) -> Any:
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(**_vision(tower, image_size=336, patch_size=14, projection_dim=768))


def llava(decoder: Decoder, tower: Tower) -> Built:
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig(
        vision_config=_clip(tower), text_config=LlamaConfig(**_text(decoder)), image_token_id=IMAGE,
        image_seq_length=576,
    )  # fmt: skip
    return LlavaForConditionalGeneration, config


def llava_next(decoder: Decoder, tower: Tower) -> Built:
    from transformers import LlamaConfig, LlavaNextConfig, LlavaNextForConditionalGeneration

    config = LlavaNextConfig(
        vision_config=_clip(tower), text_config=LlamaConfig(**_text(decoder)), image_token_id=IMAGE,
        image_grid_pinpoints=[[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    )  # fmt: skip
    return LlavaNextForConditionalGeneration, config


def internvl(decoder: Decoder, tower: Tower) -> Built:
    from transformers import InternVLConfig, InternVLForConditionalGeneration, Qwen2Config

    vision = _vision(tower, image_size=[448, 448], patch_size=[14, 14], attention_bias=True)
    config = InternVLConfig(
        vision_config=vision, text_config=Qwen2Config(**_text(decoder)), image_token_id=IMAGE,
        tie_word_embeddings=False,
    )  # fmt: skip
    return InternVLForConditionalGeneration, config


def _qwen_ids() -> dict[str, Any]:
    return {"image_token_id": IMAGE, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8}


def qwen2_5_vl(decoder: Decoder, tower: Tower) -> Built:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    vision = {
        "depth": tower.layers, "hidden_size": tower.hidden, "intermediate_size": tower.ffn, "num_heads": tower.heads,
        "out_hidden_size": decoder.hidden, "patch_size": 14, "window_size": 112,
        "fullatt_block_indexes": [layer for layer in range(tower.layers) if layer % 8 == 7],
    }  # fmt: skip
    text = {**_text(decoder), "rope_parameters": rope}
    return Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig(vision_config=vision, text_config=text, **_qwen_ids())


def qwen3_vl(decoder: Decoder, tower: Tower) -> Built:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]}
    deep = [round(place * tower.layers / 27) for place in (8, 16, 24)]  # at least three decoder layers read them
    vision = {
        "depth": tower.layers, "hidden_size": tower.hidden, "intermediate_size": tower.ffn, "num_heads": tower.heads,
        "out_hidden_size": decoder.hidden, "patch_size": 16, "num_position_embeddings": 2304,
        "deepstack_visual_indexes": sorted(set(deep)),
    }  # fmt: skip
    text = {**_text(decoder), "head_dim": decoder.head_dim, "rope_parameters": rope}
    return Qwen3VLForConditionalGeneration, Qwen3VLConfig(vision_config=vision, text_config=text, **_qwen_ids())


def smolvlm(decoder: Decoder, tower: Tower) -> Built:
    from transformers import LlamaConfig, SmolVLMConfig, SmolVLMForConditionalGeneration

    config = SmolVLMConfig(
        vision_config=_vision(tower, image_size=384, patch_size=14), text_config=LlamaConfig(**_text(decoder)),
        image_token_id=IMAGE, scale_factor=3, tie_word_embeddings=False,
    )  # fmt: skip
    return SmolVLMForConditionalGeneration, config


# pictures ------------------------------------------------------------------------------------------------------------


def squares(side: int) -> Pictures:
    """One square picture each."""
    return lambda count, draw: {"pixel_values": torch.randn(count, 3, side, side, generator=draw)}


def tiles(each: int, side: int, layout: str = "flat") -> Pictures:
    """Pictures of `each` tiles, a thumbnail among them.

    Args:
        layout: 'flat': all tiles in one list; 'next': a dimension for the tiles, and the pictures' sizes; 'rows': a
            dimension for the tiles, and which pixels are real.
    """

    def make(count: int, draw: torch.Generator) -> dict[str, Tensor]:
        pixels = torch.randn(count, each, 3, side, side, generator=draw)
        if layout == "flat":
            return {"pixel_values": pixels.flatten(0, 1)}
        if layout == "next":
            return {"pixel_values": pixels, "image_sizes": torch.tensor([[2 * side, 2 * side]] * count)}
        shown = torch.ones(count, each, side, side, dtype=torch.bool)
        return {"pixel_values": pixels, "pixel_attention_mask": shown}

    return make


def patches(rows: int, columns: int, patch: int) -> Pictures:
    """Pictures as lists of patches, two frames deep, and their grids."""

    def make(count: int, draw: torch.Generator) -> dict[str, Tensor]:
        return {
            "pixel_values": torch.randn(count * rows * columns, 3 * 2 * patch * patch, generator=draw),
            "image_grid_thw": torch.tensor([[1, rows, columns]] * count),
        }

    return make
