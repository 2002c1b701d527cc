"""LaVIN's published checkpoints: their names in ours and back.

A published checkpoint is a `.pth` of `{"model": {name: tensor}, "optimizer": ..., "args": ...}` that holds all
parameters whose name says 'adapter' and nothing else; LLaMA's weights (Meta's layout) and CLIP's (OpenAI's) come from
elsewhere. `expert` B is our `first`, D our `second`. Their 1 x 1 convolutions are linear maps: one dimension less here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...core.errors import DataError
from ..layouts.clip_keys import clip_from_published, clip_to_published
from ..layouts.published import check_names, read_published

__all__ = [
    "adapters_from_published",
    "adapters_to_published",
    "base_from_published",
    "base_to_published",
    "load_published_lavin",
]

TEXT, VISION = "model.language_model.", "model.vision_tower."
BLOCKS = "backbone.visual.transformer.resblocks."
PLACES = (
    (r"layers\.(\d+)\.adapter_attn\.", TEXT + r"layers.\1.self_attn.adapter."),
    (re.escape(BLOCKS) + r"(\d+)\.adapter_attn\.", VISION + r"encoder.layers.\1.self_attn.adapter."),
    (r"adapter_proj\.", "model.projector."),
    (r"adapter_modality_embedding\.", "model.modality_embedding."),
)  # fmt: skip
PARTS = {"conv_A": "down", "conv_B": "first", "conv_D": "second", "expert_weights": "router", "weight": "weight"}
PROJECTOR = {"conv_A": "down", "conv_B": "up"}
LLAMA = {
    "tok_embeddings": TEXT + "embed_tokens",
    "norm": TEXT + "norm",
    "output": "lm_head",
}
LLAMA_LAYER = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def adapters_from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published adapter names -> ours. Anything that is no adapter is left out.

    Raises:
        DataError: the checkpoint has adapters that LaVIN as published in its paper has not (before the FFN).
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        name = name.removeprefix("module.")
        if "adapter" not in name:
            continue
        ours = _adapter_name(name)
        if ours is None:
            raise DataError(
                f"The checkpoint holds {name!r}, which LaVIN has no place for here: adapters stand before the "
                "attentions ('attn', 'router'), not before the FFN ('block', 'router_block')."
            )
        found[ours] = tensor[..., 0] if tensor.dim() == 3 else tensor
    return found


def adapters_to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse: the adapters of our state dict under their published names."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        theirs = _published_adapter_name(name)
        if theirs is not None:
            convolution = ".adapter_attn.conv_" in theirs and tensor.dim() == 2
            found[theirs] = tensor[..., None] if convolution else tensor
    return found


def base_from_published(state: Mapping[str, Tensor], head_dim: int) -> dict[str, Tensor]:
    """LLaMA in Meta's layout (and, under `backbone.visual.`, CLIP in OpenAI's) -> ours.

    Meta rotates neighbouring entries of a head, transformers the two halves: rows of q and k change places.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer = re.fullmatch(r"layers\.(\d+)\.(.+)\.weight", name)
        if layer and layer[2] in LLAMA_LAYER:
            rows = _halves(tensor, head_dim) if layer[2] in ("attention.wq", "attention.wk") else tensor
            found[f"{TEXT}layers.{layer[1]}.{LLAMA_LAYER[layer[2]]}.weight"] = rows
        elif name.removesuffix(".weight") in LLAMA:
            found[LLAMA[name.removesuffix(".weight")] + ".weight"] = tensor
    visual = {
        name.removeprefix("backbone.visual."): t for name, t in state.items() if name.startswith("backbone.visual.")
    }
    return found | {VISION + name: tensor for name, tensor in clip_from_published(visual).items()}


def base_to_published(state: Mapping[str, Tensor], head_dim: int) -> dict[str, Tensor]:
    """The inverse of `base_from_published`."""
    outer, inner = ({ours: theirs for theirs, ours in table.items()} for table in (LLAMA, LLAMA_LAYER))
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        module = name.removesuffix(".weight")
        layer = re.fullmatch(re.escape(TEXT) + r"layers\.(\d+)\.(.+)", module)
        if layer and layer[2] in inner:
            rows = _neighbours(tensor, head_dim) if layer[2].endswith(("q_proj", "k_proj")) else tensor
            found[f"layers.{layer[1]}.{inner[layer[2]]}.weight"] = rows
        elif module in outer:
            found[outer[module] + ".weight"] = tensor
    visual = {name.removeprefix(VISION): t for name, t in state.items() if name.startswith(VISION)}
    return found | {f"backbone.visual.{name}": tensor for name, tensor in clip_to_published(visual).items()}


def load_published_lavin(model: Any, checkpoint: str | Path | Mapping[str, Any]) -> None:
    """Load a published adapter checkpoint into a LaVIN whose LLaMA and CLIP are loaded already.

    Args:
        model: a `LavinForConditionalGeneration`.
        checkpoint: the `.pth` file, or what is in it.

    Raises:
        DataError: the file cannot be read, an adapter is missing or left over, or a shape differs.
    """
    given = adapters_from_published(read_published(checkpoint, "model"))
    own = model.state_dict()
    wanted = {name: own[name] for name in own if _published_adapter_name(name) is not None}
    check_names(given, wanted, "LaVIN's adapters")
    model.load_state_dict(given, strict=False)


def _adapter_name(name: str) -> str | None:
    for pattern, place in PLACES:
        match = re.match(pattern, name)
        if match:
            table = PROJECTOR if name.startswith("adapter_proj.") else PARTS
            part, _, kind = name[match.end() :].partition(".")
            return match.expand(place) + table[part] + (f".{kind}" if kind else "") if part in table else None
    return None


def _published_adapter_name(name: str) -> str | None:
    for prefix, pattern, place in _INVERSE:
        match = re.match(pattern, name)
        if match:
            table = PROJECTOR if prefix == "adapter_proj" else PARTS
            part, _, kind = name[match.end() :].partition(".")
            theirs = {ours: published for published, ours in table.items()}
            return match.expand(place) + theirs[part] + (f".{kind}" if kind else "")
    return None


_INVERSE = (
    ("layers", re.escape(TEXT) + r"layers\.(\d+)\.self_attn\.adapter\.", r"layers.\1.adapter_attn."),
    ("visual", re.escape(VISION) + r"encoder\.layers\.(\d+)\.self_attn\.adapter\.",
     BLOCKS + r"\1.adapter_attn."),
    ("adapter_proj", r"model\.projector\.", "adapter_proj."),
    ("modality", r"model\.modality_embedding\.", "adapter_modality_embedding."),
)  # fmt: skip


def _halves(rows: Tensor, head_dim: int) -> Tensor:
    """Rows of q or k [heads * head_dim, D] from neighbours (0, 1), (2, 3), ... to halves (0, d/2), (1, d/2 + 1), ..."""
    return rows.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).reshape(rows.shape)


def _neighbours(rows: Tensor, head_dim: int) -> Tensor:
    return rows.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).reshape(rows.shape)
