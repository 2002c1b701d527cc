"""A processor for the tiny LLaVA: real Hugging Face classes around a vocabulary of single characters."""

from __future__ import annotations

import string
from typing import Any

from .sizes import IMAGE, PAD, VISION, VOCAB

__all__ = ["tiny_processor"]

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'][0] }}:{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


def tiny_processor() -> Any:
    """Processor of `tiny('llava')`: 16 visual tokens an image, one token a printable ASCII character."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

    special = {"<pad>": PAD, "<s>": 1, "</s>": 2, "<unk>": 3, "<image>": IMAGE}
    letters = "\n " + string.ascii_letters + string.digits + ":?.,'!-+<>/="
    vocabulary = {**special, **{letter: 10 + i for i, letter in enumerate(letters)}}
    assert max(vocabulary.values()) < VOCAB
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=["<image>"], padding_side="left",
    )  # fmt: skip
    size = {"height": VISION["image_size"], "width": VISION["image_size"]}
    images = CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False)
    return LlavaProcessor(
        images, tokenizer, patch_size=VISION["patch_size"], vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE, image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip
