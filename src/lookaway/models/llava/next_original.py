"""LLaVA-1.6 in its original layout -> transformers' LLaVA-NeXT, with the public rounding of `next_unpadding.py`.

The published tile grids are (width, height); transformers reads (height, width). They are turned around, or small
pictures would be cut into another grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.errors import UnsupportedModel
from ..layouts.conversations import chat_template
from ..layouts.plan import MARK, Plan
from ..layouts.request import Request, generation_config, stored_dtype, tower_layer
from ..layouts.rules import Source
from ..layouts.tokenizing import IMAGE, chunkwise_tokenizer
from .assembly import llama_config
from .keys import llava_rules
from .next_unpadding import LlavaNextForConditionalGeneration, LlavaNextProcessor
from .original import open_decoder, refuse_variants, tower_of

__all__ = ["plan_llava_next"]


def plan_llava_next(request: Request) -> Plan:
    """What such a folder becomes.

    Raises:
        UnsupportedModel: a variant that has no exact counterpart; the text names the key.
        PreparationError: a part is missing.
    """
    from transformers import LlavaNextConfig, LlavaNextImageProcessorPil, MistralConfig

    config = request.config
    refuse_variants(config, "anyres")
    if config.get("mm_patch_merge_type") != "spatial_unpad":
        raise UnsupportedModel(
            f"mm_patch_merge_type is {config.get('mm_patch_merge_type')!r}; transformers' LLaVA-NeXT packs tiles as "
            "spatial_unpad and in no other way."
        )
    shards = open_decoder(request.folder)
    tower = tower_of(request, shards)
    tokenizer = chunkwise_tokenizer(request.folder)
    conversation = request.conversation or _published_conversation(config)
    end = ["<|im_end|>"] if conversation == "chatml_direct" else []
    dtype = stored_dtype(config, shards.specs["lm_head.weight"].dtype)
    strategy = "default" if config.get("mm_vision_select_feature", "patch") == "patch" else "full"
    grids = [[height, width] for width, height in config["image_grid_pinpoints"]]
    is_mistral = config.get("model_type") == "llava_mistral"
    text = llama_config(config, MistralConfig if is_mistral else None)
    built = LlavaNextConfig(
        vision_config=tower.config.to_dict(),
        text_config=text.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(tower.size // tower.patch_size) ** 2,
        image_grid_pinpoints=grids,
        vision_feature_layer=tower_layer(config, tower.config.num_hidden_layers),
        vision_feature_select_strategy=strategy,
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
        architectures=["LlavaNextForConditionalGeneration"],
        dtype=dtype,
        **{MARK: "llava-1.6"},
    )
    pictures = LlavaNextImageProcessorPil(
        size={"shortest_edge": tower.size},
        crop_size={"height": tower.size, "width": tower.size},
        image_mean=tower.mean,
        image_std=tower.std,
        image_grid_pinpoints=grids,
    )
    processor = LlavaNextProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=tower.patch_size,
        num_additional_image_tokens=1,
        vision_feature_select_strategy=strategy,
        chat_template=chat_template(conversation),
    )
    return Plan(
        layout="llava-1.6",
        model_class=LlavaNextForConditionalGeneration,
        config=built,
        generation=generation_config(request.folder, config, tokenizer, *end),
        processor=processor,
        sources=(Source(shards, (*tower.rules_inside, *llava_rules())), *([tower.source] if tower.source else [])),
        dtype=dtype,
        conversation=conversation,
    )


def _published_conversation(config: Mapping[str, Any]) -> str:
    """Vicuna's form, Mistral's, or, for Yi-34B (a vocabulary of 64,000), ChatML."""
    if config.get("model_type") == "llava_mistral":
        return "mistral_instruct"
    return "chatml_direct" if config.get("vocab_size") == 64000 else "vicuna_v1"
