"""Names of Eagle-X5's towers, and their sizes, which its config does not hold, from the shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...core.errors import PreparationError, UnsupportedModel
from ..layouts.reader import Spec
from ..layouts.rules import Rule, drop, rename

__all__ = ["KINDS", "tower_rules", "tower_sizes"]

KINDS = {
    "clip-448": "clip", "convnext-1024": "convnext", "sam-1024": "sam", "det-1024": "eva",
    "pix2struct-1024": "pix2struct",
}  # fmt: skip
STORED = r"model\.vision_tower\.vision_towers\."


def tower_rules(kinds: list[str]) -> tuple[Rule, ...]:
    """Rules of all towers. ConvNeXt's head and EVA's rotary tables are left out."""
    return tuple(rule for number, kind in enumerate(kinds) for rule in _rules(number, kind))


def _rules(number: int, kind: str) -> tuple[Rule, ...]:
    theirs, ours = rf"{STORED}{number}\.vision_tower\.", f"model.vision_tower.towers.{number}."
    if kind == "clip":
        return drop(theirs + r"vision_model\.embeddings\.position_ids"), rename(
            theirs + r"vision_model\.(.+)", ours + r"\1"
        )
    if kind == "convnext":
        block, layer = theirs + r"stages\.(\d+)\.blocks\.(\d+)\.", ours + r"encoder.stages.\1.layers.\2."
        kept = r"\.(weight|bias)"
        return (
            drop(theirs + r"head\..+"),
            rename(theirs + r"stem\.0" + kept, ours + r"embeddings.patch_embeddings.\1"),
            rename(theirs + r"stem\.1" + kept, ours + r"embeddings.layernorm.\1"),
            rename(theirs + r"stages\.(\d+)\.downsample\.(.+)", ours + r"encoder.stages.\1.downsampling_layer.\2"),
            rename(block + r"(?:weight|gamma)", layer + "layer_scale_parameter"),
            rename(block + r"conv_dw" + kept, layer + r"dwconv.\3"),
            rename(block + r"norm" + kept, layer + r"layernorm.\3"),
            rename(block + r"mlp\.fc([12])" + kept, layer + r"pwconv\3.\4"),
        )
    if kind == "eva":
        return drop(theirs + r"(.+\.)?(rope|rope_win|rope_glb)\..+"), rename(theirs + r"(.+)", ours + r"\1")
    return (rename(theirs + r"(.+)", ours + r"\1"),)


def tower_sizes(names: list[str], specs: Mapping[str, Spec], image_size: int = 1024) -> list[dict[str, Any]]:
    """One entry of `EagleVisionConfig.towers` for each published name.

    How many heads a tower has is seen from no matrix; the size of a head is, in SAM's relative positions and EVA's
    rotary tables, and is the same in all towers (64 as published).

    Raises:
        UnsupportedModel: a tower is none of the five.
        PreparationError: a tower's tensors are missing.
    """
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        raise UnsupportedModel(f"Eagle's vision tower {unknown[0]!r} is not one of {', '.join(KINDS)}.")
    shapes = {name: spec.shape for name, spec in specs.items()}
    head = _head_dim(shapes)
    found = []
    for number, name in enumerate(names):
        prefix = f"model.vision_tower.vision_towers.{number}.vision_tower."
        own = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
        try:
            found.append({"kind": KINDS[name], **_SIZES[KINDS[name]](own, head, image_size)})
        except KeyError as error:
            raise PreparationError(
                f"The checkpoint does not hold {prefix}{error.args[0]}: its tower {name} is missing."
            ) from error
    return found


Shapes = Mapping[str, tuple[int, ...]]


def _head_dim(shapes: Shapes) -> int:
    for name, shape in shapes.items():
        if name.endswith((".attn.rel_pos_h", "rope_glb.freqs_cos")):
            return shape[1]
    return 64


def _count(shapes: Shapes, pattern: str) -> int:
    """Blocks numbered by the pattern's group."""
    return 1 + max((int(m[1]) for name in shapes if (m := re.match(pattern, name))), default=-1)


def _clip(shapes: Shapes, head: int, image_size: int) -> dict[str, Any]:
    hidden, _, patch, _ = shapes["vision_model.embeddings.patch_embedding.weight"]
    patches = shapes["vision_model.embeddings.position_embedding.weight"][0] - 1
    return {
        "hidden_size": hidden, "intermediate_size": shapes["vision_model.encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": _count(shapes, r"vision_model\.encoder\.layers\.(\d+)\."),
        "num_attention_heads": hidden // head, "patch_size": patch, "image_size": round(patches**0.5) * patch,
        "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    }  # fmt: skip


def _convnext(shapes: Shapes, head: int, image_size: int) -> dict[str, Any]:
    stages = range(_count(shapes, r"stages\.(\d+)\."))
    return {
        "hidden_sizes": [shapes[f"stages.{stage}.blocks.0.norm.weight"][0] for stage in stages],
        "depths": [_count(shapes, rf"stages\.{stage}\.blocks\.(\d+)\.") for stage in stages],
        "patch_size": shapes["stem.0.weight"][-1], "num_stages": len(stages), "hidden_act": "gelu",
    }  # fmt: skip


def _sam(shapes: Shapes, head: int, image_size: int) -> dict[str, Any]:
    hidden, _, patch, _ = shapes["patch_embed.projection.weight"]
    layers = _count(shapes, r"layers\.(\d+)\.")
    reach = [shapes[f"layers.{layer}.attn.rel_pos_h"][0] for layer in range(layers)]
    whole = 2 * (image_size // patch) - 1
    window = next((size // 2 + 1 for size in reach if size != whole), 14)
    return {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": hidden // head,
        "mlp_dim": shapes["layers.0.mlp.lin1.weight"][0], "patch_size": patch, "image_size": image_size,
        "output_channels": shapes["neck.conv1.weight"][0], "window_size": window,
        "global_attn_indexes": [layer for layer, size in enumerate(reach) if size == whole],
    }  # fmt: skip


def _eva(shapes: Shapes, head: int, image_size: int) -> dict[str, Any]:
    hidden, _, patch, _ = shapes["patch_embed.proj.weight"]
    return {
        "hidden_size": hidden, "num_layers": _count(shapes, r"blocks\.(\d+)\."), "num_heads": hidden // head,
        "width": shapes["blocks.0.mlp.w1.weight"][0], "patch_size": patch,
        "trained_patches": shapes["pos_embed"][1] - 1,
    }  # fmt: skip


def _pix2struct(shapes: Shapes, head: int, image_size: int) -> dict[str, Any]:
    hidden, width = shapes["embeddings.patch_projection.weight"]
    return {
        "hidden_size": hidden, "d_ff": shapes["encoder.layer.0.mlp.wi_0.weight"][0], "d_kv": head,
        "num_hidden_layers": _count(shapes, r"encoder\.layer\.(\d+)\."), "num_attention_heads": hidden // head,
        "seq_len": shapes["embeddings.row_embedder.weight"][0], "patch_embed_hidden_size": width, "patch_size": 16,
    }  # fmt: skip


_SIZES = {"clip": _clip, "convnext": _convnext, "sam": _sam, "eva": _eva, "pix2struct": _pix2struct}
