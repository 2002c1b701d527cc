"""Eagle-X5 (and X4) in its original layout -> transformers' LLaVA around `EagleVisionModel`."""

from __future__ import annotations

from typing import Any

from ..layouts.conversations import chat_template
from ..layouts.plan import MARK, Plan
from ..layouts.request import Request, generation_config, stored_dtype
from ..layouts.rules import Source
from ..layouts.tokenizing import IMAGE, chunkwise_tokenizer
from ..llava.keys import llava_rules
from ..llava.original import llama_config, open_decoder, refuse_variants
from .config import EagleVisionConfig
from .keys import KINDS, tower_rules, tower_sizes
from .register import register_eagle
from .towers import CLIP_MEAN, CLIP_STD

__all__ = ["plan_eagle"]

SIDE, GRID = 1024, 32


def plan_eagle(request: Request) -> Plan:
    """What such a folder becomes.

    Raises:
        UnsupportedModel: another projector or a tower that is none of the five; the text names it.
        PreparationError: a part is missing.
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaImageProcessorPil, LlavaProcessor

    register_eagle()
    config = request.config
    refuse_variants(config, "pad")
    shards = open_decoder(request.folder)
    names = str(config["mm_vision_tower"]).split(";")
    sizes = tower_sizes(names, shards.specs, SIDE)
    vision = EagleVisionConfig(sizes, SIDE, SIDE // GRID, int(config["mm_hidden_size"]))
    tokenizer = chunkwise_tokenizer(request.folder)
    conversation = request.conversation or "vicuna_v1"
    dtype = stored_dtype(config, shards.specs["lm_head.weight"].dtype)
    built = LlavaConfig(
        vision_config=vision,
        text_config=llama_config(config).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=GRID**2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
        architectures=["LlavaForConditionalGeneration"],
        dtype=dtype,
        **{MARK: "eagle-x5"},
    )
    pictures = LlavaImageProcessorPil(
        do_pad=True,
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=list(CLIP_MEAN),
        image_std=list(CLIP_STD),
    )
    processor: Any = LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=SIDE // GRID,
        vision_feature_select_strategy="full",
        chat_template=chat_template(conversation),
    )
    return Plan(
        layout="eagle-x5",
        model_class=LlavaForConditionalGeneration,
        config=built,
        generation=generation_config(request.folder, config, tokenizer),
        processor=processor,
        sources=(Source(shards, (*tower_rules([KINDS[name] for name in names]), *llava_rules())),),
        dtype=dtype,
        conversation=conversation,
    )
