"""LLaVA-1.5, VILA 1.0 and InternVL-Chat 1.0 in LLaVA's original layout -> transformers' LLaVA.

One layout: Llama's keys at the top of config.json, `mm_*` keys beside them, and the tower only named. InternVL-Chat
1.0 differs in its tower (InternViT-6B, read four layers from its end) and in its image statistics alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import PreparationError, UnsupportedModel
from ..internvl.vision import internvit_config, internvit_rules
from ..layouts.json_files import read_json
from ..layouts.plan import Plan
from ..layouts.reader import Shards
from ..layouts.request import Request, pick, tower_layer
from ..layouts.rules import Rule, Source
from ..layouts.towers import find_tower
from .assembly import ImageSide, llava_plan
from .keys import clip_rules, llava_rules, tower_inside_rules

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "Tower",
    "clip_config",
    "image_processor",
    "open_decoder",
    "plan_llava",
    "refuse_variants",
    "tower_of",
]

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TOWER = "model.vision_tower."
CLIP_L_336 = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14, "projection_dim": 768, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
"""openai/clip-vit-large-patch14-336, for checkpoints that hold the tower's weights and only its config elsewhere."""


@dataclass(frozen=True)
class Tower:
    """The image side of a LLaVA: config, where its weights are, and how pictures become pixels."""

    config: Any
    source: Source | None  # None: inside the checkpoint
    rules_inside: tuple[Rule, ...]
    size: int
    """Side of the square that the tower is given, in pixels."""
    patch_size: int
    mean: list[float]
    std: list[float]


def plan_llava(request: Request) -> Plan:
    """What such a folder becomes.

    Raises:
        UnsupportedModel: a variant that has no exact counterpart; the text names the key.
        PreparationError: a part is missing.
    """
    config = request.config
    refuse_variants(config, None, "square", "pad")
    shards = open_decoder(request.folder)
    tower = tower_of(request, shards)
    strategy = "default" if config.get("mm_vision_select_feature", "patch") == "patch" else "full"
    image = ImageSide(
        config=tower.config,
        pictures=image_processor(config, tower.size, tower.mean, tower.std),
        tokens=(tower.size // tower.patch_size) ** 2 + (strategy == "full"),
        patch_size=tower.patch_size,
        layer=tower_layer(config, tower.config.num_hidden_layers),
        strategy=strategy,
        class_tokens=1,
    )
    sources = (Source(shards, (*tower.rules_inside, *llava_rules())), *([tower.source] if tower.source else []))
    layout = "internvl-chat-1.0" if "internvl" in type(tower.config).__name__.lower() else "llava-1.5"
    return llava_plan(layout, request.folder, config, image, sources, request.conversation)


def open_decoder(folder: Path) -> Shards:
    """The checkpoint's own tensors.

    Raises:
        PreparationError: there are none, or the decoder is not among them (LoRA, projector only).
    """
    shards = Shards(folder)
    if "lm_head.weight" in shards.specs:
        return shards
    if (folder / "adapter_config.json").is_file() or any("lora_" in name for name in shards.specs):
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path", "its base model")
        raise PreparationError(
            f"{folder} holds LoRA weights only. Merge them into {base} with the code that trained them "
            "(LLaVA: scripts/merge_lora_weights.py), and give the merged folder."
        )
    if (folder / "mm_projector.bin").is_file():
        raise PreparationError(
            f"{folder} holds a projector only (mm_projector.bin). The decoder is in the folder that config.json names "
            "as its base; give a whole checkpoint."
        )
    if not shards.files:
        raise PreparationError(
            f"{folder} has a config.json and no weights. Download its *.safetensors or pytorch_model*.bin files too."
        )
    raise PreparationError(f"{folder} has weights, but not lm_head.weight: the decoder's are missing.")


def tower_of(request: Request, shards: Shards) -> Tower:
    """The tower that the checkpoint names: its own weights where it holds them, else those of the tower's folder.

    Raises:
        UnsupportedModel: neither CLIP nor InternViT.
        PreparationError: its folder is needed and not found.
    """
    name = str(request.config.get("mm_vision_tower") or request.config.get("vision_tower"))
    inside = any(stored.startswith(TOWER) for stored in shards.specs)
    if re.search(r"intern_?vit|internvl", name, re.IGNORECASE):
        folder = find_tower(request, name)
        assert folder is not None
        vision = internvit_config(read_json(folder / "config.json"))
        _check_named(name, folder, vision.image_size[0], vision.patch_size[0])
        # 336, whatever the tower was trained at: position embeddings are stretched as the picture asks for
        size = 448 if "448" in name else 336
        rules = internvit_rules(TOWER, r"model\.vision_tower\.vision_tower\.")
        source = None if inside else Source(Shards(folder), internvit_rules(TOWER))
        return Tower(vision, source, rules, size, vision.patch_size[0], IMAGENET_MEAN, IMAGENET_STD)
    folder = find_tower(request, name, needed=not inside)
    stored = read_json(folder / "config.json") if folder is not None else {}
    vision_keys = stored.get("vision_config") or stored
    if folder is None and name == "openai/clip-vit-large-patch14-336":
        vision_keys = CLIP_L_336
    kind = stored.get("model_type", "clip")
    if not vision_keys or kind not in ("clip", "clip_vision_model"):
        raise UnsupportedModel(
            f"The vision tower {name} is of kind {kind!r}. LLaVA's original layout is read with CLIP and InternViT."
        )
    vision = clip_config(vision_keys)
    _check_named(name, folder, vision.image_size, vision.patch_size)
    images = read_json(folder / "preprocessor_config.json") if folder is not None else {}
    source = None if inside or folder is None else Source(Shards(folder), clip_rules(TOWER))
    mean, std = images.get("image_mean", CLIP_MEAN), images.get("image_std", CLIP_STD)
    return Tower(vision, source, tower_inside_rules(TOWER), vision.image_size, vision.patch_size, mean, std)


def _check_named(name: str, folder: Path | None, size: int, patch: int) -> None:
    """Raise PreparationError where the tower's name says another picture size or patch than its config: a relative of
    it, whose matrices may fit all the same and give other visual tokens."""
    if clip := re.fullmatch(r"(?:.*/)?clip-vit-[a-z]+-patch(\d+)(?:-(\d+))?", name):
        wanted = (int(clip[2] or 224), int(clip[1]))
    elif intern := re.fullmatch(r"(?:.*/)?InternViT-6B-(\d+)px.*", name):
        wanted = (int(intern[1]), 14)
    else:
        return
    if (size, patch) != wanted:
        raise PreparationError(
            f"The checkpoint's vision tower is {name}: pictures of {wanted[0]} pixels in patches of {wanted[1]}. The "
            f"tower in {folder} has pictures of {size} in patches of {patch}. Give the folder of the former."
        )


def clip_config(config: Mapping[str, Any]) -> Any:
    """CLIP's vision config of any age -> `CLIPVisionConfig`."""
    from transformers import CLIPVisionConfig

    same = ("hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers", "num_attention_heads",
            "num_channels", "image_size", "patch_size", "hidden_act", "layer_norm_eps", "attention_dropout",
            "initializer_range", "initializer_factor")  # fmt: skip
    return CLIPVisionConfig(**pick(config, *same))


def image_processor(config: Mapping[str, Any], size: int, mean: list[float], std: list[float]) -> Any:
    """`image_aspect_ratio` pad: onto a square of the mean colour; else CLIP's resize and centre crop.

    Args:
        size: side of the square in pixels.
    """
    from transformers import CLIPImageProcessorPil, LlavaImageProcessorPil

    options = {
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "image_mean": mean,
        "image_std": std,
    }
    if config.get("image_aspect_ratio") == "pad":
        return LlavaImageProcessorPil(do_pad=True, **options)
    return CLIPImageProcessorPil(**options)


def refuse_variants(config: Mapping[str, Any], *aspect_ratios: str | None) -> None:
    """Raise UnsupportedModel, with the key, where transformers' class does not compute what the config says."""
    projector = config.get("mm_projector_type", "linear")
    if projector != "mlp2x_gelu":
        raise UnsupportedModel(
            f"The checkpoint's projector is {projector!r} (mm_projector_type); transformers' LLaVA has two linear "
            "layers with GELU between them (mlp2x_gelu) and no other."
        )
    if config.get("mm_use_im_start_end") or config.get("mm_use_im_patch_token"):
        raise UnsupportedModel(
            "The checkpoint marks pictures with <im_start> and <im_end> (mm_use_im_start_end), as LLaVA-1.0 did; "
            "LLaVA-1.5 and its relatives do not, and only they are read."
        )
    ratio = config.get("image_aspect_ratio")
    if ratio not in aspect_ratios:
        known = ", ".join(str(name) for name in aspect_ratios)
        raise UnsupportedModel(f"image_aspect_ratio {ratio!r} is not one that is read here: {known}.")
