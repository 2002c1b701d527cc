"""Tiny random models of every family, and inputs for them: tests and docs without downloads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UnknownAnatomy

__all__ = ["BATCH_KINDS", "TINY", "TinyModel", "tiny"]

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


@dataclass(frozen=True)
class TinyModel:
    """A tiny random model, fp32, in eval mode, with inputs that fit it."""

    family: str
    model: Any
    seed: int

    def inputs(self, batch_kind: str = "single") -> dict[str, Tensor]:
        """Keyword arguments for `forward`.

        Args:
            batch_kind: 'single' (one row, an image); 'left_padded' and 'right_padded': four rows of different length,
                pictures of different size where the family allows it, two of them in the last row, none in the third.
        """
        if batch_kind not in BATCH_KINDS:
            raise ValueError(f"batch_kind {batch_kind!r} is none of {BATCH_KINDS}")
        draw = torch.Generator().manual_seed(self.seed)
        rows = (
            [(4, (16,), 7)] if batch_kind == "single" else [(4, (16,), 9), (1, (40,), 4), (0, (), 6), (2, (16, 24), 5)]
        )
        pictures = [height for _, heights, _ in rows for height in heights]
        images = self._images(pictures, [len(heights) for _, heights, _ in rows], draw)
        lengths = iter(self._lengths(images))
        ids: list[list[int]] = []
        for before, heights, after in rows:
            row = _words(before, draw)
            for _ in heights:
                row += [IMAGE] * next(lengths) + _words(1 if len(heights) > 1 else 0, draw)
            ids.append(row + _words(after, draw))
        return {**_pad(ids, left=batch_kind != "right_padded"), **images}

    def _images(self, heights: list[int], counts: list[int], draw: torch.Generator) -> dict[str, Tensor]:
        """Pictures 16 wide and `heights` high, as the family's processor would give them."""
        if self.family == "llava":
            return {"pixel_values": torch.randn(len(heights), 3, 16, 16, generator=draw)}
        images = {
            "pixel_values": torch.randn(len(heights), 4, 3, 16, 16, generator=draw),
            "image_sizes": torch.tensor([[height, 16] for height in heights]),
        }
        if self.family == "llava_onevision":
            images["batch_num_images"] = torch.tensor(counts)
        return images

    def _lengths(self, images: dict[str, Tensor]) -> list[int]:
        """Visual tokens of each picture."""
        with torch.no_grad():
            return [len(features) for features in self.model.get_image_features(**images).pooler_output]


def _words(count: int, draw: torch.Generator) -> list[int]:
    return torch.randint(10, VOCAB, (count,), generator=draw).tolist()


def _pad(rows: list[list[int]], left: bool) -> dict[str, Tensor]:
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), PAD), torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        columns = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, columns], mask[i, columns] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask}


def _llava(layers: int) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION, projection_dim=16),
        text_config=LlamaConfig(**TEXT, num_hidden_layers=layers),
        image_token_id=IMAGE,
        image_seq_length=16,
    )
    return LlavaForConditionalGeneration, config


def _llava_next(layers: int) -> Any:
    from transformers import CLIPVisionConfig, LlavaNextConfig, LlavaNextForConditionalGeneration, MistralConfig

    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**VISION, projection_dim=16),
        text_config=MistralConfig(**TEXT, num_hidden_layers=layers, sliding_window=None),
        image_token_id=IMAGE,
        image_grid_pinpoints=[[16, 32], [32, 16], [48, 16]],
    )
    return LlavaNextForConditionalGeneration, config


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
        image_grid_pinpoints=[[16, 32], [32, 16], [48, 16]],
        vision_feature_layer=-1,
    )
    return LlavaOnevisionForConditionalGeneration, config


TINY: dict[str, Callable[[int], Any]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
}
"""Family -> (model class, config) for a number of decoder layers. A new family is one function and one row."""


def tiny(family: str, num_layers: int = 4, seed: int = 0, attn_implementation: str = "sdpa") -> TinyModel:
    """A tiny random model of `family`, the same for the same seed; the global random state is left as it was."""
    if family not in TINY:
        raise UnknownAnatomy(f"No tiny model of family {family!r}. Known: {', '.join(TINY)}.")
    model_class, config = TINY[family](num_layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class._from_config(config, attn_implementation=attn_implementation)
    model.generation_config.pad_token_id = PAD
    return TinyModel(family, model.eval(), seed)
