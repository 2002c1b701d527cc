"""LaVIN's prompt: `BOS "Image: " visual tokens, question` or `BOS "Image: N/A" question`, tokenised piece by piece."""

from __future__ import annotations

import re
from typing import Any

import torch
from transformers import BatchFeature, CLIPImageProcessorPil, ProcessorMixin

from ...core.errors import DataError

__all__ = ["CHAT_TEMPLATE", "LavinProcessor", "lavin_image_processor"]

WITHOUT = "Image: N/A"
CHAT_TEMPLATE = (
    "{% set seen = namespace(images=0) %}"
    "{% for message in messages %}{% if message['content'] is not string %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{% set seen.images = seen.images + 1 %}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
    "{% if seen.images %}Image: {% for _ in range(seen.images) %}<image>{% endfor %}{% else %}Image: N/A{% endif %}"
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{% endfor %}"
)
"""One turn, as LaVIN was trained: the image line, whatever place the message gives the image, then the text."""


def lavin_image_processor(size: int = 224) -> CLIPImageProcessorPil:
    """The published preprocessing: bicubic to a square, without cropping, ImageNet's mean and deviation, not CLIP's."""
    return CLIPImageProcessorPil(
        size={"height": size, "width": size},
        do_center_crop=False,
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )


class LavinProcessor(ProcessorMixin):
    """Images and text as LaVIN reads them.

    Args:
        image_processor: see `lavin_image_processor`.
        tokenizer: LLaMA's. The image token is added to it where it has none: behind the vocabulary, as id 32,000.
        image_seq_length: visual tokens of an image, `config.image_seq_length`.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        image_token: str = "<image>",
        image_seq_length: int = 6,
        **kwargs: Any,
    ) -> None:
        self.image_token = image_token
        self.image_seq_length = image_seq_length
        if tokenizer is not None:
            if image_token not in tokenizer.get_vocab():
                tokenizer.add_special_tokens({"additional_special_tokens": [image_token]})
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.unk_token  # id 0, as published
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    @property
    def image_token_id(self) -> int:
        """Its id in `input_ids`: `config.image_token_id` must be the same."""
        return int(self.tokenizer.convert_tokens_to_ids(self.image_token))

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        padding: bool = True,
        padding_side: str = "left",
        add_special_tokens: bool = True,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """input_ids and attention_mask [B, S], and pixel_values [N, 3, H, W] where there are images.

        Raises:
            DataError: no text, as many images as image tokens are not given, or the batch cannot be padded.
        """
        if text is None:
            raise DataError("LaVIN's processor needs text.")
        texts = [text] if isinstance(text, str) else list(text)
        if len(texts) > 1 and not padding:
            raise DataError("LaVIN's processor pads a batch; padding=False takes one text.")
        flat = _flat(images)
        wanted = sum(one.count(self.image_token) for one in texts)
        if wanted != len(flat):
            raise DataError(f"The texts hold {wanted} image tokens for {len(flat)} images.")
        rows = [self._ids(one, add_special_tokens) for one in texts]
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), int(self.tokenizer.pad_token_id))
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            columns = slice(width - len(row), width) if padding_side == "left" else slice(0, len(row))
            ids[i, columns], mask[i, columns] = torch.tensor(row), 1
        features: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if flat:
            features["pixel_values"] = self.image_processor(flat, return_tensors="pt")["pixel_values"]
        return BatchFeature(features, tensor_type=return_tensors)

    def _ids(self, text: str, begin: bool) -> list[int]:
        """Each piece by itself: the published code encodes the image line and the question apart."""
        lead, rest = (WITHOUT, text[len(WITHOUT) :]) if text.startswith(WITHOUT) else ("", text)
        pieces = [lead, *re.split(f"({re.escape(self.image_token)})", rest)]
        row = [self.tokenizer.bos_token_id] if begin and self.tokenizer.bos_token_id is not None else []
        for piece in filter(None, pieces):
            if piece == self.image_token:
                row += [self.image_token_id] * self.image_seq_length
            else:
                row += self.tokenizer(piece, add_special_tokens=False)["input_ids"]
        return row


def _flat(images: Any) -> list[Any]:
    """Images of a batch in a row, from one image, a list of them, or a list a text."""
    if images is None:
        return []
    if not isinstance(images, list | tuple):
        return [images]
    return [image for part in images for image in _flat(part)]
