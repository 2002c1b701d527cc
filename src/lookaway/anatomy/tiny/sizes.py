"""Sizes and token ids that all tiny models share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["BATCH_KINDS", "IMAGE", "PAD", "TEXT", "VIDEO", "VISION", "VOCAB", "Recipe", "feature_lengths"]

BATCH_KINDS = ("single", "left_padded", "right_padded")
IMAGE, VIDEO, PAD, VOCAB = 5, 6, 0, 97
TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.25,  # wide enough that attention looks somewhere and greedy tokens differ
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
    "initializer_range": 0.25,
}


def feature_lengths(model: Any, images: Mapping[str, Tensor], heights: Sequence[int]) -> list[int]:
    """Visual tokens of each picture, as the model's own image features say."""
    with torch.no_grad():
        return [len(features) for features in model.get_image_features(**images).pooler_output]


@dataclass(frozen=True)
class Recipe:
    """How a family's tiny model, and inputs for it, are made."""

    build: Callable[[int], tuple[Any, Any]]
    """Number of decoder layers -> (model class, config)."""
    pictures: Callable[[Sequence[Sequence[int]], torch.Generator], dict[str, Tensor]]
    """(heights of each row's pictures, all 16 wide) -> inputs as the family's processor gives them."""
    lengths: Callable[[Any, Mapping[str, Tensor], Sequence[int]], list[int]] = feature_lengths
    """(model, those inputs, heights of all pictures) -> visual tokens of each picture, in order."""
    more: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda inputs: {}
    """All inputs -> further ones that follow from them, e.g. token types."""
    any_size: bool = True
    """Pictures of different size give different numbers of visual tokens."""
    without_sdpa: tuple[str, ...] = ()
    """Parts of the config that transformers runs with eager attention only."""
    family: str = ""
    """`config.model_type`, where the tiny model's name is another."""
