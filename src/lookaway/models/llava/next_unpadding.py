"""LLaVA-1.6 with the public code's rounding where the padding of a picture's tiles is taken off.

A picture that is not of its tile grid's shape is padded; the padding's rows or columns of visual tokens leave. Their
number is `int(x)` in the public code and `int(round(x, 7))` in transformers: where x is a hair below a whole number,
36 of 1.4 million picture sizes up to 1200 x 1200, the two keep another number of visual tokens.

Both classes bear the names of transformers' own, as which they are saved.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel as TheirModel
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

__all__ = ["LlavaNextForConditionalGeneration", "LlavaNextProcessor", "unpadded_grid"]


def unpadded_grid(height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
    """(rows, columns) of visual tokens that a picture of height x width keeps of its tiles' rows x columns."""
    if width / height > columns / rows:
        kept = int(height * (columns / width))
        return rows - 2 * ((rows - kept) // 2), columns
    kept = int(width * (rows / height))
    return rows, columns - 2 * ((columns - kept) // 2)


class LlavaNextModel(TheirModel):
    """transformers' model with the public rounding."""

    def pack_image_features(
        self, image_features: Any, image_sizes: Any, vision_feature_select_strategy: str, image_newline: Any = None
    ) -> tuple[list[Tensor], Tensor]:
        """The visual tokens of each picture: the whole picture's, then its tiles' row by row, each row ended by
        `image_newline`.

        Args:
            image_features: one [1 + tiles, side * side, D] a picture.
            image_sizes: [N, 2], height and width of each picture in pixels.
        """
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        packed = []
        for features, size in zip(image_features, image_sizes, strict=True):
            height, width = (int(value) for value in size)
            down, across = get_anyres_image_grid_shape(
                (height, width), self.config.image_grid_pinpoints, vision.image_size
            )
            tiles = features[1:].unflatten(1, (side, side)).unflatten(0, (down, across))
            whole = tiles.transpose(1, 2).flatten(0, 1).flatten(1, 2)  # [down * side, across * side, D]
            rows, columns = unpadded_grid(height, width, *whole.shape[:2])
            top, left = (whole.shape[0] - rows) // 2, (whole.shape[1] - columns) // 2
            kept = whole[top : top + rows, left : left + columns]
            if image_newline is not None:
                kept = torch.cat([kept, image_newline.to(kept).expand(rows, 1, -1)], 1)
            packed.append(torch.cat([features[0], kept.flatten(0, 1)]))
        lengths = torch.tensor([len(one) for one in packed], device=packed[0].device)
        return packed, lengths


class LlavaNextForConditionalGeneration(transformers.LlavaNextForConditionalGeneration):
    """transformers' class around that model."""

    def __init__(self, config: Any) -> None:
        super(transformers.LlavaNextForConditionalGeneration, self).__init__(config)
        self.model = LlavaNextModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()


class LlavaNextProcessor(transformers.LlavaNextProcessor):
    """transformers' processor with the public rounding."""

    def _get_unpadded_features(
        self, height: int, width: int, patches_height: int, patches_width: int, scale_height: int, scale_width: int
    ) -> tuple[int, int]:
        rows, columns = unpadded_grid(height, width, patches_height * scale_height, patches_width * scale_width)
        return rows * columns, rows
