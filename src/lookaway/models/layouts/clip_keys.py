"""Names of a CLIP image tower in OpenAI's layout and in transformers', both ways.

OpenAI keeps query, key and value in one matrix (`in_proj_weight`); transformers splits it. LaVIN's and METER's
checkpoints hold their towers in OpenAI's layout.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["clip_from_published", "clip_to_published"]

OUTER = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre": "pre_layrnorm",  # transformers' own spelling
    "ln_post": "post_layernorm",
}
BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
BLOCKS, OUR_BLOCKS = "transformer.resblocks.", "encoder.layers."


def clip_from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's names (without what stands before `conv1`) -> transformers'. Names it does not know are left out."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not name.startswith(BLOCKS):
            if (ours := _renamed(name, OUTER)) is not None:
                found[ours] = tensor
            continue
        number, _, rest = name.removeprefix(BLOCKS).partition(".")
        block = f"{OUR_BLOCKS}{number}."
        if rest.startswith("attn.in_proj_"):
            kind = rest.removeprefix("attn.in_proj_")
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{block}self_attn.{part}_proj.{kind}"] = piece
        elif (ours := _renamed(rest, BLOCK)) is not None:
            found[block + ours] = tensor
    return found


def clip_to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `clip_from_published`."""
    outer, inner = ({ours: theirs for theirs, ours in table.items()} for table in (OUTER, BLOCK))
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not name.startswith(OUR_BLOCKS):
            if (theirs := _renamed(name, outer)) is not None:
                found[theirs] = tensor
            continue
        number, _, rest = name.removeprefix(OUR_BLOCKS).partition(".")
        if rest.startswith("self_attn.q_proj."):
            kind = rest.removeprefix("self_attn.q_proj.")
            parts = [state[f"{OUR_BLOCKS}{number}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            found[f"{BLOCKS}{number}.attn.in_proj_{kind}"] = torch.cat(parts)
        elif (theirs := _renamed(rest, inner)) is not None:
            found[f"{BLOCKS}{number}.{theirs}"] = tensor
    return found


def _renamed(name: str, table: Mapping[str, str]) -> str | None:
    """`name`, or the module it begins with, by the table; None where it is not in it."""
    if name in table:
        return table[name]
    module, _, kind = name.rpartition(".")
    return f"{table[module]}.{kind}" if module in table else None
