"""Tiny models of the families that cut pictures into tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .llava import own_size, pixtral_tower, squares
from .sizes import IMAGE, TEXT, VISION, Recipe

TILE = 32  # 8 x 8 patches, shuffled to 16 visual tokens
TOWER = {**VISION, "image_size": TILE}
INDICATORS = (90, 91, 92, 93, 94)
"""Text tokens of Ovis2 that mark where tiles begin and end."""


def _tiles(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Number of tiles of each picture of each row."""
    return [[-(-height // 16) for height in row] for row in rows]


def _internvl(layers: int) -> Any:
    from transformers import InternVLConfig, InternVLForConditionalGeneration, Qwen2Config

    config = InternVLConfig(
        vision_config={**TOWER, "image_size": [TILE, TILE], "patch_size": [4, 4]},
        text_config=Qwen2Config(**TEXT, num_hidden_layers=layers),
        image_token_id=IMAGE,
        image_seq_length=16,
    )
    return InternVLForConditionalGeneration, config


def _internvl_pictures(rows: Sequence[Sequence[int]], draw: torch.Generator) -> dict[str, Tensor]:
    """All tiles in one list; a picture's number of tiles is only in its number of visual tokens."""
    tiles = sum(map(sum, _tiles(rows)))
    return {"pixel_values": torch.randn(tiles, 3, TILE, TILE, generator=draw)}


def _idefics3(layers: int, family: str = "Idefics3") -> Any:
    """SmolVLM is built alike, of classes of its own."""
    import transformers

    config = getattr(transformers, f"{family}Config")(
        vision_config=TOWER,
        text_config=transformers.LlamaConfig(**TEXT, num_hidden_layers=layers),
        image_token_id=IMAGE,
        scale_factor=2,
    )
    return getattr(transformers, f"{family}ForConditionalGeneration"), config


def _idefics3_pictures(rows: Sequence[Sequence[int]], draw: torch.Generator) -> dict[str, Tensor]:
    """One entry a row, padded to the most tiles: a tile of zeros stands for none."""
    tiles = [sum(row) for row in _tiles(rows)]
    pixels = torch.zeros(len(rows), max(tiles), 3, TILE, TILE)
    for row, count in enumerate(tiles):
        pixels[row, :count] = torch.randn(count, 3, TILE, TILE, generator=draw)
    shown = (pixels != 0).any(dim=2)
    return {"pixel_values": pixels, "pixel_attention_mask": shown}


def _mistral3(layers: int) -> Any:
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration, MistralConfig

    config = Mistral3Config(
        vision_config=pixtral_tower(),
        text_config=MistralConfig(**TEXT, num_hidden_layers=layers, sliding_window=None, head_dim=8),
        image_token_index=IMAGE,
        spatial_merge_size=1,
    )
    return Mistral3ForConditionalGeneration, config


def _aya_vision(layers: int) -> Any:
    from transformers import AyaVisionConfig, AyaVisionForConditionalGeneration, Cohere2Config, SiglipVisionConfig

    text = Cohere2Config(
        **TEXT, num_hidden_layers=layers, sliding_window=12,
        layer_types=["sliding_attention", "full_attention"] * (layers // 2) + ["sliding_attention"] * (layers % 2),
    )  # fmt: skip
    config = AyaVisionConfig(
        vision_config=SiglipVisionConfig(**TOWER), text_config=text, image_token_index=IMAGE, downsample_factor=2
    )
    return AyaVisionForConditionalGeneration, config


def _ovis2(layers: int) -> Any:
    from transformers import Ovis2Config, Ovis2ForConditionalGeneration, Qwen2Config

    config = Ovis2Config(
        vision_config={**TOWER, "vocab_size": 24, "hidden_stride": 2},
        text_config=Qwen2Config(**TEXT, num_hidden_layers=layers),
        image_token_id=IMAGE,
        visual_indicator_token_ids=list(INDICATORS),
        vocab_size=TEXT["vocab_size"],
        hidden_size=TEXT["hidden_size"],
    )
    return Ovis2ForConditionalGeneration, config


def _fast_vlm(layers: int) -> Any:
    from transformers import ConvNextConfig, FastVlmConfig, FastVlmForConditionalGeneration, Qwen2Config

    tower = ConvNextConfig(
        patch_size=2, num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], image_size=16, initializer_range=0.25
    )  # real ones have a FastViT, which needs a package more; both give a map [B, C, rows, columns]
    tower.hidden_size = 16
    config = FastVlmConfig(
        vision_config=tower,
        text_config=Qwen2Config(**TEXT, num_hidden_layers=layers),
        image_token_index=IMAGE,
        image_seq_length=16,
    )
    return FastVlmForConditionalGeneration, config


def _by_tile(tokens: int) -> Callable[[Any, Mapping[str, Tensor], Sequence[int]], list[int]]:
    """Lengths of pictures whose tiles have `tokens` visual tokens each."""
    return lambda model, images, heights: [tokens * -(-height // 16) for height in heights]


TINY = {
    "internvl": Recipe(_internvl, _internvl_pictures, lengths=_by_tile(16)),
    "idefics3": Recipe(_idefics3, _idefics3_pictures, lengths=_by_tile(16)),
    "smolvlm": Recipe(partial(_idefics3, family="SmolVLM"), _idefics3_pictures, lengths=_by_tile(16)),
    "mistral3": Recipe(_mistral3, own_size),
    "aya_vision": Recipe(_aya_vision, _internvl_pictures, lengths=_by_tile(16)),
    "ovis2": Recipe(_ovis2, _internvl_pictures, lengths=_by_tile(16)),
    "fast_vlm": Recipe(_fast_vlm, squares, any_size=False, without_sdpa=("vision_config",)),
}
