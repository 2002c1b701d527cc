"""VILA in three folders (`llm`, `vision_tower`, `mm_projector`) -> transformers' LLaVA.

With SigLIP and `mlp_downsample` it is VILA 1.5 around `VilaVisionModel`; with CLIP and `mlp2x_gelu` it is VILA 1.0,
saved again in the later layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import PreparationError, UnsupportedModel
from ..layouts.conversations import chat_template
from ..layouts.plan import MARK, Plan
from ..layouts.reader import Shards
from ..layouts.request import Request, generation_config, pick, stored_dtype
from ..layouts.rules import Rule, Source, drop, rename
from ..layouts.tokenizing import IMAGE, chunkwise_tokenizer, read_json
from ..llava.keys import clip_rules, llava_rules
from ..llava.original import Tower, clip_config, image_processor, llama_config
from .config import VilaVisionConfig
from .register import register_vila

__all__ = ["plan_vila"]

PARTS = ("llm", "vision_tower", "mm_projector")
TOWER, PROJECTOR = "model.vision_tower.", "model.multi_modal_projector."


def plan_vila(request: Request) -> Plan:
    """What such a folder becomes.

    Raises:
        UnsupportedModel: a variant that is not VILA 1.0's or 1.5's; the text names the key.
        PreparationError: a part is missing.
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    register_vila()
    shards = {part: _part(request.folder, part) for part in PARTS}
    configs = {part: read_json(request.folder / part / "config.json") for part in PARTS}
    llm = configs["llm"]
    if (llm.get("architectures") or ["?"])[0] != "LlamaForCausalLM" or llm.get("vocab_size", 0) > 64000:
        raise UnsupportedModel(
            f"VILA's decoder {llm.get('architectures')} with a vocabulary of {llm.get('vocab_size')} is not one that "
            "is read: Llama 2 and its relatives (VILA1.5-3b, -13b). Llama-3-VILA1.5-8b's prompt could not be proved."
        )
    image = _image_side(request, configs, shards)
    tokenizer = chunkwise_tokenizer(request.folder / "llm")
    conversation = request.conversation or "vicuna_v1"
    dtype = stored_dtype(llm, shards["llm"].specs["lm_head.weight"].dtype)
    built = LlavaConfig(
        vision_config=image.tower.config,
        text_config=llama_config(llm).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=image.tokens,
        vision_feature_layer=image.layer,
        vision_feature_select_strategy=image.strategy,
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
        architectures=["LlavaForConditionalGeneration"],
        dtype=dtype,
        **{MARK: image.layout},
    )
    processor: Any = LlavaProcessor(
        image_processor=image.processor,
        tokenizer=tokenizer,
        patch_size=image.patch,
        num_additional_image_tokens=int(image.strategy == "default"),
        vision_feature_select_strategy=image.strategy,
        chat_template=chat_template(conversation),
    )
    assert image.tower.source is not None
    return Plan(
        layout=image.layout,
        model_class=LlavaForConditionalGeneration,
        config=built,
        generation=generation_config(request.folder / "llm", llm, tokenizer),
        processor=processor,
        sources=(
            Source(shards["llm"], llava_rules()),
            image.tower.source,
            Source(shards["mm_projector"], image.projector),
        ),
        dtype=dtype,
        conversation=conversation,
    )


@dataclass(frozen=True)
class ImageSide:
    """What differs between the two: tower, projector, and how many visual tokens a picture has."""

    layout: str
    tower: Tower
    projector: tuple[Rule, ...]
    processor: Any
    tokens: int
    patch: int
    layer: int
    strategy: str


def _image_side(request: Request, configs: Mapping[str, dict[str, Any]], shards: Mapping[str, Shards]) -> ImageSide:
    kinds = (configs["vision_tower"].get("model_type"), configs["mm_projector"].get("mm_projector_type"))
    if kinds == ("siglip_vision_model", "mlp_downsample"):
        return _siglip(request, configs["vision_tower"], shards)
    if kinds == ("clip_vision_model", "mlp2x_gelu"):
        return _clip(request, configs["vision_tower"], shards)
    raise UnsupportedModel(
        f"VILA with the tower {kinds[0]!r} and the projector {kinds[1]!r} is not supported. Read are SigLIP with "
        "mlp_downsample (VILA 1.5) and CLIP with mlp2x_gelu (VILA 1.0)."
    )


def _siglip(request: Request, stored: Mapping[str, Any], shards: Mapping[str, Shards]) -> ImageSide:
    from transformers import SiglipImageProcessorPil, SiglipVisionConfig

    config = request.config
    _refuse_image_variants(config, stored, "resize")
    keys = pick(stored, "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels",
                "image_size", "patch_size", "hidden_act", "layer_norm_eps", "attention_dropout")  # fmt: skip
    inner = SiglipVisionConfig(**keys)
    scales = [int(scale) for scale in str(config["s2_scales"]).split(",")] if config.get("s2") else None
    size = scales[-1] if scales else inner.image_size
    side = -(-(inner.image_size // inner.patch_size) // 2)
    vision = VilaVisionConfig(
        tower={**keys, "vision_use_head": False},
        select_layer=config["mm_vision_select_layer"],
        scales=sorted(scales) if scales else None,
        split_size=int(config["s2_max_split_size"]) if scales else inner.image_size,
        hidden_size=4 * inner.hidden_size * len(scales or [size]),
        image_size=size,
        patch_size=size // side,
    )
    rules = (
        drop(r"vision_model\.(head\..+|embeddings\.position_ids)"),
        rename(r"vision_model\.(.+)", TOWER + r"tower.\1"),
    )
    projector = (
        rename(r"layers\.1\.(weight|bias)", TOWER + r"norm.\1"),
        rename(r"layers\.2\.(weight|bias)", PROJECTOR + r"linear_1.\1"),
        rename(r"layers\.4\.(weight|bias)", PROJECTOR + r"linear_2.\1"),
    )
    half = [0.5, 0.5, 0.5]
    images = read_json(request.folder / "vision_tower" / "preprocessor_config.json")
    mean, std = images.get("image_mean", half), images.get("image_std", half)
    tower = Tower(vision, Source(shards["vision_tower"], rules), (), size, mean, std)
    # a picture is squeezed to the square by PIL's own default filter, whatever the tower's config says
    pictures = SiglipImageProcessorPil(size={"height": size, "width": size}, resample=3, image_mean=mean, image_std=std)
    return ImageSide("vila-1.5", tower, projector, pictures, side**2, size // side, -1, "full")


def _clip(request: Request, stored: Mapping[str, Any], shards: Mapping[str, Shards]) -> ImageSide:
    config = request.config
    _refuse_image_variants(config, stored, "pad")
    vision = clip_config(stored)
    images = read_json(request.folder / "vision_tower" / "preprocessor_config.json")
    tower = Tower(
        vision, Source(shards["vision_tower"], clip_rules(TOWER)), (), vision.image_size, images["image_mean"],
        images["image_std"],
    )  # fmt: skip
    projector = (
        rename(r"layers\.0\.(weight|bias)", PROJECTOR + r"linear_1.\1"),
        rename(r"layers\.2\.(weight|bias)", PROJECTOR + r"linear_2.\1"),
    )
    tokens, layer = (vision.image_size // vision.patch_size) ** 2, config["mm_vision_select_layer"]
    pictures = image_processor(config, tower)
    return ImageSide("llava-1.5", tower, projector, pictures, tokens, vision.patch_size, layer, "default")


def _part(folder: Path, part: str) -> Shards:
    if not (folder / part / "config.json").is_file():
        raise PreparationError(f"{folder} is not complete: VILA's part {part}/ is missing. Download that folder too.")
    shards = Shards(folder / part)
    if not shards.files:
        raise PreparationError(f"{folder / part} has a config.json and no weights. Download its *.safetensors too.")
    return shards


def _refuse_image_variants(config: Mapping[str, Any], tower: Mapping[str, Any], ratio: str) -> None:
    if config.get("image_aspect_ratio") != ratio:
        raise UnsupportedModel(f"image_aspect_ratio is {config.get('image_aspect_ratio')!r}; this VILA has {ratio!r}.")
    resolution = config.get("vision_resolution", -1)
    if resolution not in (-1, None, tower.get("image_size")):
        raise UnsupportedModel(f"vision_resolution {resolution}: stretched position embeddings are not supported.")
