"""Eagle2's processor: InternVL's text side, and the numbering of pictures that the later edition writes."""

from __future__ import annotations

import re
from typing import Any

from transformers import BatchFeature, ProcessorMixin

from ...core.errors import DataError
from ..internvl.processing import InternVLProcessor

__all__ = ["Eagle2Processor"]

NUMBERED = re.compile(r"<image-(\d+)>")


class Eagle2Processor(InternVLProcessor):
    """Pictures cut into tiles, and text in which every `<image>` becomes `<img>`, its visual tokens, `</img>`.

    `<image-1>`, the later edition's placeholder, becomes `<image 1><image>` first, as its own processor writes it.

    Args:
        image_processor: an `Eagle2ImageProcessorPil` that crops to patches.
        tokenizer: with `<img>`, `</img>` and `<image>`.
        image_seq_length: visual tokens of a tile.
    """

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """input_ids and attention_mask [B, S], and pixel_values [tiles, 3, H, W] where there are images.

        Raises:
            DataError: numbered placeholders are not 1, 2, ... from left to right.
        """
        if text is not None:
            text = [_named(row) for row in ([text] if isinstance(text, str) else text)]
        return super().__call__(images=images, text=text, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """What is saved; there is no video part."""
        return ProcessorMixin.to_dict(self)


def _named(text: str) -> str:
    numbers = [int(number) for number in NUMBERED.findall(text)]
    if numbers != list(range(1, len(numbers) + 1)):
        raise DataError(
            f"The prompt's pictures are numbered {numbers}. Number them from 1 on, from left to right: <image-1>, ..."
        )
    return NUMBERED.sub(r"<image \1><image>", text)
