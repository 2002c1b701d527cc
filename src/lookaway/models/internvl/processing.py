"""InternVL's processor without its video part, which transformers' own cannot do without (it needs torchvision)."""

from __future__ import annotations

from typing import Any

from transformers import BatchFeature, ProcessorMixin

from ..layouts.tokenizing import IMAGE

__all__ = ["InternVLProcessor"]


class InternVLProcessor(ProcessorMixin):
    """Pictures cut into tiles, and text in which every `<image>` becomes `<img>`, its visual tokens, `</img>`.

    It bears the name of transformers' class on purpose: what it saves, that class loads, with its video part.

    Args:
        image_processor: a `GotOcr2ImageProcessorPil` that crops to patches.
        tokenizer: with `<img>`, `</img>` and `<image>`.
        image_seq_length: visual tokens of a tile.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_length: int = 256,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_seq_length = image_seq_length
        self.image_token = IMAGE
        self.image_token_id = int(tokenizer.convert_tokens_to_ids(IMAGE))

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """input_ids and attention_mask [B, S], and pixel_values [tiles, 3, H, W] where there are images."""
        kwargs.setdefault("padding_side", "left")
        features = super().__call__(images=images, text=[text] if isinstance(text, str) else text, **kwargs)
        features.pop("num_patches", None)
        return features

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        """One picture's text: its tiles' visual tokens between the marks."""
        tiles = int(image_inputs["num_patches"][image_idx])
        return f"<img>{self.image_token * self.image_seq_length * tiles}</img>"

    def to_dict(self) -> dict[str, Any]:
        """What is saved: with an entry for transformers' video processor, which this model has no videos for."""
        video = {"video_processor_type": "InternVLVideoProcessor", "size": self.image_processor.to_dict()["size"]}
        return {**super().to_dict(), "video_processor": video}
