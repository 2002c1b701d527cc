"""The public rounding of LLaVA-1.6: against whole numbers, and where transformers rounds otherwise."""

from __future__ import annotations

from fractions import Fraction

import torch
from transformers import LlavaNextConfig
from transformers.models.llava_next.modeling_llava_next import unpad_image

from lookaway.models.llava.next_unpadding import LlavaNextModel, unpadded_grid


def by_hand(height, width, rows, columns):
    """The published rule on a table of cells: the padding is cut off on both sides."""
    table = torch.zeros(1, rows, columns)
    if width / height > columns / rows:
        cut = (rows - int(height * (columns / width))) // 2
        return tuple(table[:, cut : rows - cut].shape[1:])
    cut = (columns - int(width * (rows / height))) // 2
    return tuple(table[:, :, cut : columns - cut].shape[1:])


def test_grids_against_the_published_rule_and_against_transformers():
    other = 0
    for height in range(1, 1200, 7):
        for width in range(1, 1200, 13):
            for rows, columns in ((24, 48), (48, 24), (48, 48), (24, 72), (72, 24)):
                ours = unpadded_grid(height, width, rows, columns)
                assert ours == by_hand(height, width, rows, columns)
                if (height + width) % 31 == 0:
                    theirs = tuple(unpad_image(torch.zeros(1, rows, columns), (height, width)).shape[1:])
                    other += theirs != ours
                    exact = Fraction(height * columns, width) if width * rows > height * columns else (
                        Fraction(width * rows, height))  # fmt: skip
                    assert theirs == ours or exact.denominator == 1
    assert other < 10
    assert unpadded_grid(1128, 47, 72, 24) == (72, 2)  # the golden picture: 47 * 72 / 1128 = 2.9999999...
    assert unpad_image(torch.zeros(1, 72, 24), (1128, 47)).shape[1:] == (72, 4)


def test_packing_equals_transformers_where_the_rounding_does():
    config = LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": 28, "patch_size": 14, "hidden_size": 8,
                       "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1},
        text_config={"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
                     "num_attention_heads": 1, "vocab_size": 9},
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
    )  # fmt: skip
    model = LlavaNextModel(config)
    sizes = torch.tensor([[20, 50], [50, 20], [40, 41]])
    features = [torch.randn(tiles + 1, 4, 8) for tiles in (2, 2, 4)]
    newline = torch.randn(8)
    ours = model.pack_image_features(features, sizes, "default", newline)
    theirs = super(LlavaNextModel, model).pack_image_features(features, sizes, "default", newline)
    assert all(torch.equal(a, b) for a, b in zip(ours[0], theirs[0], strict=True))
    assert torch.equal(ours[1], theirs[1])
