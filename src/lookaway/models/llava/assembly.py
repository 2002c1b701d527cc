"""What the layouts that become transformers' LLaVA have in common: a Llama, an image side, mostly Vicuna's prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..layouts.conversations import chat_template
from ..layouts.plan import MARK, Plan
from ..layouts.request import generation_config, pick, rope, stored_dtype
from ..layouts.rules import Source
from ..layouts.tokenizing import IMAGE, chunkwise_tokenizer

__all__ = ["ImageSide", "TextSide", "llama_config", "llava_plan"]


@dataclass(frozen=True)
class ImageSide:
    """How a picture becomes visual tokens."""

    config: Any
    """The vision tower's config."""
    pictures: Any
    """The image processor."""
    tokens: int
    """Visual tokens of a picture."""
    patch_size: int
    """Pixels a visual token covers in each direction."""
    layer: int
    """Which of the tower's hidden states is read."""
    strategy: str
    """'default': without the class token; 'full': all of them."""
    class_tokens: int = 0
    """Tokens of the tower that stand for no patch."""


@dataclass(frozen=True)
class TextSide:
    """How a prompt becomes token ids, where it is not Vicuna's way."""

    tokenizer: Any
    conversation: str
    """The published prompt form."""
    ends: tuple[str, ...]
    """Tokens that end an answer, beside those of the folder's generation config."""


def llava_plan(
    layout: str,
    folder: Path,
    llm: Mapping[str, Any],
    image: ImageSide,
    sources: tuple[Source, ...],
    conversation: str | None,
    text: TextSide | None = None,
) -> Plan:
    """The plan of a LLaVA around a Llama.

    Args:
        folder: where tokenizer and generation config are.
        llm: the published config's Llama keys.
        sources: the decoder's first.
        conversation: prompt form; None: the published one.
        text: None: a sentencepiece tokenizer and vicuna_v1.
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    text = text or TextSide(chunkwise_tokenizer(folder), "vicuna_v1", ())
    tokenizer, conversation = text.tokenizer, conversation or text.conversation
    dtype = stored_dtype(llm, sources[0].shards.specs["lm_head.weight"].dtype)
    config = LlavaConfig(
        vision_config=image.config,
        text_config=llama_config(llm),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=image.tokens,
        vision_feature_layer=image.layer,
        vision_feature_select_strategy=image.strategy,
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
        architectures=["LlavaForConditionalGeneration"],
        dtype=dtype,
        **{MARK: layout},
    )
    processor = LlavaProcessor(
        image_processor=image.pictures,
        tokenizer=tokenizer,
        patch_size=image.patch_size,
        num_additional_image_tokens=image.class_tokens,
        vision_feature_select_strategy=image.strategy,
        chat_template=chat_template(conversation),
    )
    generation = generation_config(folder, llm, tokenizer, *text.ends)
    return Plan(layout, LlavaForConditionalGeneration, config, generation, processor, sources, dtype, conversation)


def llama_config(config: Mapping[str, Any], kind: Any = None) -> Any:
    """Llama's keys of a published config -> `LlamaConfig`, or another `kind` of the same keys."""
    from transformers import LlamaConfig

    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps",
            "use_cache", "pad_token_id", "bos_token_id", "eos_token_id", "attention_bias", "attention_dropout",
            "head_dim")  # fmt: skip
    window = {} if kind is None else {"sliding_window": config.get("sliding_window")}
    same = {**pick(config, *keys), **window, "tie_word_embeddings": False}
    return (kind or LlamaConfig)(**same, rope_parameters=rope(config))
