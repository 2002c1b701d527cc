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
from ..layouts.json_files import read_json
from ..layouts.plan import Plan
from ..layouts.reader import Shards
from ..layouts.request import Request, pick, tower_layer
from ..layouts.rules import Rule, Source, drop, rename
from ..layouts.tokenizing import chunkwise_tokenizer
from ..llava.assembly import ImageSide, TextSide, llava_plan
from ..llava.keys import clip_rules, llava_rules
from ..llava.original import CLIP_MEAN, CLIP_STD, clip_config, image_processor
from .config import VilaVisionConfig
from .llama3 import is_llama3, llama3_text
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
    register_vila()
    shards = {part: _part(request.folder, part) for part in PARTS}
    configs = {part: read_json(request.folder / part / "config.json") for part in PARTS}
    llm = configs["llm"]
    if (llm.get("architectures") or ["?"])[0] != "LlamaForCausalLM":
        raise UnsupportedModel(
            f"VILA's decoder {llm.get('architectures')} is not one that is read: LlamaForCausalLM, as Llama 2 "
            "(VILA1.5-3b, -13b) or Llama 3 (Llama-3-VILA1.5-8b)."
        )
    parts = _image_parts(request, configs)
    sources = (
        Source(shards["llm"], llava_rules()),
        Source(shards["vision_tower"], parts.tower),
        Source(shards["mm_projector"], parts.projector),
    )
    folder = request.folder / "llm"
    if request.config.get("mm_use_im_start_end") or request.config.get("mm_use_im_patch_token"):
        raise UnsupportedModel("mm_use_im_start_end or mm_use_im_patch_token is set, which no published VILA has.")
    if is_llama3(folder):
        text = llama3_text(folder)
    else:  # the public loader says so, whatever the folder's tokenizer_config.json does
        text = TextSide(chunkwise_tokenizer(folder, legacy=False), "vicuna_v1", ())
    return llava_plan(parts.layout, folder, llm, parts.image, sources, request.conversation, text)


@dataclass(frozen=True)
class ImageParts:
    """What differs between the two: the image side, and the names in its two folders."""

    layout: str
    image: ImageSide
    tower: tuple[Rule, ...]
    projector: tuple[Rule, ...]


def _image_parts(request: Request, configs: Mapping[str, dict[str, Any]]) -> ImageParts:
    kinds = (configs["vision_tower"].get("model_type"), configs["mm_projector"].get("mm_projector_type"))
    if kinds == ("siglip_vision_model", "mlp_downsample"):
        return _siglip(request, configs["vision_tower"])
    if kinds == ("clip_vision_model", "mlp2x_gelu"):
        return _clip(request, configs["vision_tower"])
    raise UnsupportedModel(
        f"VILA with the tower {kinds[0]!r} and the projector {kinds[1]!r} is not supported. Read are SigLIP with "
        "mlp_downsample (VILA 1.5) and CLIP with mlp2x_gelu (VILA 1.0). VILA1.5-40b has an InternViT-6B under "
        "mlp_downsample, which was not held to public code."
    )


def _siglip(request: Request, stored: Mapping[str, Any]) -> ImageParts:
    from transformers import SiglipImageProcessorPil, SiglipVisionConfig

    config = request.config
    _refuse_image_variants(config, stored, "resize", "cls_patch")
    keys = pick(stored, "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels",
                "image_size", "patch_size", "hidden_act", "layer_norm_eps", "attention_dropout")  # fmt: skip
    inner = SiglipVisionConfig(**keys)
    scales = sorted(map(int, str(config["s2_scales"]).split(","))) if config.get("s2") else None
    size = scales[-1] if scales else inner.image_size
    side = -(-(inner.image_size // inner.patch_size) // 2)
    vision = VilaVisionConfig(
        tower={**keys, "vision_use_head": False},
        select_layer=tower_layer(config, inner.num_hidden_layers),
        scales=scales,
        split_size=int(config["s2_max_split_size"]) if scales else inner.image_size,
        hidden_size=4 * inner.hidden_size * len(scales or [size]),
        image_size=size,
        patch_size=size // side,
    )
    # a picture is squeezed to the square by PIL's own default filter, whatever the tower's config says
    square = {"size": {"height": size, "width": size}, "resample": 3}
    pictures = SiglipImageProcessorPil(**square, **_statistics(request, [0.5] * 3, [0.5] * 3))
    image = ImageSide(vision, pictures, side**2, size // side, layer=-1, strategy="full")
    tower = (
        drop(r"vision_model\.(head\..+|embeddings\.position_ids)"),
        rename(r"vision_model\.(.+)", TOWER + r"tower.\1"),
    )
    projector = (rename(r"layers\.1\.(weight|bias)", TOWER + r"norm.\1"), *_linears(2, 4))
    return ImageParts("vila-1.5", image, tower, projector)


def _clip(request: Request, stored: Mapping[str, Any]) -> ImageParts:
    config = request.config
    _refuse_image_variants(config, stored, "pad", "patch")
    vision = clip_config(stored)
    statistics = _statistics(request, CLIP_MEAN, CLIP_STD)
    pictures = image_processor(config, vision.image_size, statistics["image_mean"], statistics["image_std"])
    tokens, layer = (vision.image_size // vision.patch_size) ** 2, tower_layer(config, vision.num_hidden_layers)
    image = ImageSide(vision, pictures, tokens, vision.patch_size, layer, strategy="default", class_tokens=1)
    return ImageParts("llava-1.5", image, clip_rules(TOWER), _linears(0, 2))


def _linears(first: int, second: int) -> tuple[Rule, ...]:
    """The projector's two matrices by their numbers."""
    return (
        rename(rf"layers\.{first}\.(weight|bias)", PROJECTOR + r"linear_1.\1"),
        rename(rf"layers\.{second}\.(weight|bias)", PROJECTOR + r"linear_2.\1"),
    )


def _statistics(request: Request, mean: list[float], std: list[float]) -> dict[str, list[float]]:
    """The tower's image statistics, by default these."""
    images = read_json(request.folder / "vision_tower" / "preprocessor_config.json")
    return {"image_mean": images.get("image_mean", mean), "image_std": images.get("image_std", std)}


def _part(folder: Path, part: str) -> Shards:
    if not (folder / part / "config.json").is_file():
        raise PreparationError(f"{folder} is not complete: VILA's part {part}/ is missing. Download that folder too.")
    shards = Shards(folder / part)
    if not shards.files:
        raise PreparationError(f"{folder / part} has a config.json and no weights. Download its *.safetensors too.")
    return shards


def _refuse_image_variants(config: Mapping[str, Any], tower: Mapping[str, Any], ratio: str, feature: str) -> None:
    found = config.get("mm_vision_select_feature", "patch")  # the public code's default
    if found != feature:
        raise UnsupportedModel(f"mm_vision_select_feature is {found!r}; a VILA with this tower has {feature!r}.")
    if config.get("image_aspect_ratio") != ratio:
        raise UnsupportedModel(f"image_aspect_ratio is {config.get('image_aspect_ratio')!r}; this VILA has {ratio!r}.")
    resolution = config.get("vision_resolution", -1)
    if resolution not in (-1, None, tower.get("image_size")):
        raise UnsupportedModel(f"vision_resolution {resolution}: stretched position embeddings are not supported.")
