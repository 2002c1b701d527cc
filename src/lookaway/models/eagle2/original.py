"""Eagle2-1B and -2B in their original layouts -> InternVL's class around SigLIP.

Two editions are on the hub under the same ids, with the same tensors: `eagle_chat` and, later, `eagle_2_5_vl`, which
writes prompts otherwise and resizes pictures with PyTorch instead of Pillow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import PreparationError, UnsupportedModel
from ..internvl.original import CONTEXT, decoder_of, projector_rules
from ..layouts.conversations import chat_template
from ..layouts.json_files import read_json
from ..layouts.plan import MARK, Plan
from ..layouts.reader import Shards
from ..layouts.request import Request, generation_config, pick, stored_dtype
from ..layouts.rules import Source, drop, rename
from ..layouts.tokenizing import IMAGE
from .config import Eagle2Config
from .model import Eagle2ForConditionalGeneration
from .processing import Eagle2Processor
from .register import register_eagle2
from .tiling import Eagle2ImageProcessorPil

__all__ = ["plan_eagle2"]

SIGLIP = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels", "image_size",
          "patch_size", "hidden_act", "layer_norm_eps", "attention_dropout")  # fmt: skip
END = "<|im_end|>"


@dataclass(frozen=True)
class Edition:
    """What differs between the two."""

    conversation: str
    decoder: str
    """Key of the language model's config."""
    fewest: str
    most: str
    """Keys of the numbers of tiles."""
    resizer: str


FIRST = Edition("qwen2-chat", "llm_config", "min_dynamic_patch", "max_dynamic_patch", "pil")
LATER = Edition("eagle_2_5_vl", "text_config", "min_dynamic_tiles", "max_dynamic_tiles", "torch")


def plan_eagle2(request: Request) -> Plan:
    """What such a folder becomes.

    Raises:
        UnsupportedModel: a variant that was not held to the public code; the text names the key.
        PreparationError: a part is missing.
    """
    from transformers import SiglipVisionConfig

    register_eagle2()
    config = request.config
    edition = FIRST if config.get("model_type") == "eagle_chat" else LATER
    images = _image_settings(request.folder, config, edition)
    _refuse_variants(config, edition, images)
    shards = Shards(request.folder)
    if not shards.files:
        raise PreparationError(f"{request.folder} has a config.json and no weights. Download its *.safetensors too.")
    decoder = decoder_of(config[edition.decoder])
    tokenizer = decoder.tokenizer(request.folder, CONTEXT, end=END)
    dtype = stored_dtype(config, next(iter(shards.specs.values())).dtype)
    vision = SiglipVisionConfig(**pick(config["vision_config"], *SIGLIP), vision_use_head=False)
    size = vision.image_size
    tokens = int((size // vision.patch_size) ** 2 * config["downsample_ratio"] ** 2)
    tied = _is_tied(config)
    built = Eagle2Config(
        vision_config=vision,
        text_config=decoder.config,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=tokens,
        downsample_ratio=config["downsample_ratio"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=tied,
        architectures=["Eagle2ForConditionalGeneration"],
        dtype=dtype,
        **{MARK: "eagle2"},
    )
    pictures = Eagle2ImageProcessorPil(
        size={"height": size, "width": size},
        image_mean=images.get("image_mean", [0.5] * 3),
        image_std=images.get("image_std", [0.5] * 3),
        crop_to_patches=bool(config.get("dynamic_image_size", edition is LATER)),
        min_patches=images["fewest"],
        max_patches=images["most"],
        resizer=edition.resizer,
    )
    conversation = request.conversation or edition.conversation
    generation = generation_config(request.folder, config[edition.decoder], tokenizer)
    generation.eos_token_id = tokenizer.eos_token_id  # the public chat stops at <|im_end|> alone
    head = (drop(r"language_model\.lm_head\.weight"),) if tied else ()  # stored or not, the public code ties it
    rules = (
        *head,
        *decoder.rules,
        *projector_rules(),
        drop(r"vision_model\.vision_model\.(head\..+|embeddings\.position_ids)"),
        rename(r"vision_model\.vision_model\.(.+)", r"model.vision_tower.\1"),
    )
    return Plan(
        layout="eagle2",
        model_class=Eagle2ForConditionalGeneration,
        config=built,
        generation=generation,
        processor=Eagle2Processor(pictures, tokenizer, tokens, chat_template(conversation)),
        sources=(Source(shards, rules),),
        dtype=dtype,
        conversation=conversation,
    )


def _image_settings(folder: Path, config: Mapping[str, Any], edition: Edition) -> dict[str, Any]:
    """Numbers of tiles and statistics: the later edition's are its preprocessor_config.json's."""
    images = read_json(folder / "preprocessor_config.json") if edition is LATER else {}
    found = {**config, **images}
    return {**images, "fewest": found.get(edition.fewest, 1), "most": found.get(edition.most, 12)}


def _is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the head is the embedding table: by the whole model's key, true where it is not said."""
    return bool(config.get("tie_word_embeddings", True))


def _refuse_variants(config: Mapping[str, Any], edition: Edition, images: Mapping[str, Any]) -> None:
    vision, text = config.get("vision_config") or {}, config.get(edition.decoder) or {}
    kind = vision.get("model_type")
    if kind != "siglip_vision_model":
        raise UnsupportedModel(
            f"Eagle2 with the vision tower {kind!r} is not supported: Eagle2-1B and -2B, with SigLIP alone, are read; "
            "the larger ones add a ConvNeXt, which was not held to public code."
        )
    if text.get("architectures") != ["Qwen2ForCausalLM"]:
        raise UnsupportedModel(f"Eagle2 with the decoder {text.get('architectures')} is not read; with Qwen2 it is.")
    if not _is_tied(config) and text.get("tie_word_embeddings"):
        raise UnsupportedModel("tie_word_embeddings is false for the model and true for its decoder: which one holds?")
    size = vision.get("image_size")
    wanted = {
        "select_layer": (config.get("select_layer", -1), -1),
        "force_image_size": (config.get("force_image_size") or size, size),
        "downsample_ratio": (config.get("downsample_ratio"), 0.5),
        "use_thumbnail": (config.get("use_thumbnail"), True),
        **{key: (bool(config.get(key)), False) for key in ("pad2square", "keep_aspect_ratio", "pre_feature_reduction")},
        **{key: (bool(config.get(key)), False) for key in ("use_backbone_lora", "use_llm_lora")},
        "pad_during_tiling": (bool(images.get("pad_during_tiling")), False),
    }
    for key, (found, right) in wanted.items():
        if found != right:
            raise UnsupportedModel(f"Eagle2 with {key} = {found!r} is not read; Eagle2-1B and -2B have {right!r}.")
