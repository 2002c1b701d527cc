"""Tiny Gemma 3 and PaliGemma: windows so short that the picture leaves them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .llava import squares
from .sizes import IMAGE, TEXT, VISION, Recipe

WINDOW = 12


def _alternating(layers: int) -> list[str]:
    return [("sliding_attention", "full_attention")[layer % 2] for layer in range(layers)]


def _siglip() -> Any:
    from transformers import SiglipVisionConfig

    return SiglipVisionConfig(**VISION, vision_use_head=False)


def _gemma3(layers: int) -> Any:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig

    text = Gemma3TextConfig(
        **TEXT, num_hidden_layers=layers, head_dim=8, query_pre_attn_scalar=8, sliding_window=WINDOW,
        layer_types=_alternating(layers),
    )  # fmt: skip
    config = Gemma3Config(
        vision_config=_siglip(), text_config=text, image_token_index=IMAGE, mm_tokens_per_image=16,
        initializer_range=0.25,
    )  # fmt: skip
    return Gemma3ForConditionalGeneration, config


def _image_types(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"token_type_ids": (inputs["input_ids"] == IMAGE).int()}


def _paligemma(layers: int) -> Any:
    from transformers import GemmaConfig, PaliGemmaConfig, PaliGemmaForConditionalGeneration

    text = GemmaConfig(**TEXT, num_hidden_layers=layers, head_dim=8)
    config = PaliGemmaConfig(
        vision_config=_siglip(), text_config=text, image_token_index=IMAGE, projection_dim=32, hidden_size=32,
        vocab_size=TEXT["vocab_size"],
    )  # fmt: skip
    return PaliGemmaForConditionalGeneration, config


def _paligemma2(layers: int) -> Any:
    from transformers import Gemma2Config, PaliGemmaConfig, PaliGemmaForConditionalGeneration

    text = Gemma2Config(
        **TEXT, num_hidden_layers=layers, head_dim=8, query_pre_attn_scalar=8, sliding_window=WINDOW,
        layer_types=_alternating(layers), attn_logit_softcapping=None,
    )  # fmt: skip
    config = PaliGemmaConfig(
        vision_config=_siglip(), text_config=text, image_token_index=IMAGE, projection_dim=32, hidden_size=32,
        vocab_size=TEXT["vocab_size"],
    )  # fmt: skip
    return PaliGemmaForConditionalGeneration, config


def _prefix(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Zero: belongs to the prefix, which sees itself both ways."""
    return {"token_type_ids": torch.zeros_like(inputs["input_ids"])}


TINY = {
    "gemma3": Recipe(_gemma3, squares, more=_image_types, any_size=False),
    "paligemma": Recipe(_paligemma, squares, more=_prefix, any_size=False),
    "paligemma2": Recipe(
        _paligemma2, squares, more=_prefix, any_size=False, family="paligemma", without_sdpa=("text_config",)
    ),
}
