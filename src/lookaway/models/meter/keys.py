"""METER's published checkpoints (`{"state_dict": ...}` of the training module): their names in ours and back.

Inside the co-attention and the text encoder the names are the published ones; the image tower comes in OpenAI's
layout under `vit_model.visual.`. The layout of PuMer's converted copies (all of the body under `meter.`, the tower
without `visual.`) is read too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..layouts.clip_keys import clip_from_published, clip_to_published
from ..layouts.published import check_names, read_published

__all__ = ["load_published_meter", "meter_from_published", "meter_to_published", "resize_positions"]

BODY = "meter."
HEADS = ("vqa_classifier.", "nlvr2_classifier.", "rank_output.")
OTHER_HEADS = ("mlm_score.", "itm_score.", "snli_classifier.")
VISION = BODY + "vision_model."
UNUSED = ("text_transformer.pooler.", "text_transformer.embeddings.position_ids")
POSITIONS = VISION + "embeddings.position_embedding.weight"


def meter_from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names -> ours; heads that no class here has, and what METER never calls, are left out."""
    found: dict[str, Tensor] = {}
    visual: dict[str, Tensor] = {}
    plain = {name.removeprefix(BODY): tensor for name, tensor in state.items()}
    # The training module keeps the language half of CLIP beside `visual.`; PuMer's copies have the tower alone.
    tower = "vit_model.visual." if any(name.startswith("vit_model.visual.") for name in plain) else "vit_model."
    for name, tensor in plain.items():
        if name.startswith("vit_model."):
            if name.startswith(tower):
                visual[name.removeprefix(tower)] = tensor
        elif name.startswith(HEADS):
            found[name] = tensor
        elif not name.startswith((*OTHER_HEADS, *UNUSED)):
            found[BODY + name] = tensor
    return found | {VISION + name: tensor for name, tensor in clip_from_published(visual).items()}


def meter_to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse, in the layout of the published training module."""
    tower = {name.removeprefix(VISION): tensor for name, tensor in state.items() if name.startswith(VISION)}
    found = {name.removeprefix(BODY): tensor for name, tensor in state.items() if not name.startswith(VISION)}
    return found | {f"vit_model.visual.{name}": tensor for name, tensor in clip_to_published(tower).items()}


def load_published_meter(model: Any, checkpoint: str | Path | Mapping[str, Any]) -> None:
    """Load a published checkpoint into one of the METER classes.

    Position embeddings of another image size are resized, and a missing third token type (NLVR2 from the pre-trained
    model) starts as the second, both as the published code does. A head that the checkpoint has not keeps its values.

    Raises:
        DataError: the file cannot be read, or a name or shape of the body does not fit.
    """
    given = meter_from_published(read_published(checkpoint, "state_dict"))
    own = model.state_dict()
    prefix = "" if any(name.startswith(BODY) for name in own) else BODY  # a MeterModel itself
    wanted = {prefix + name: tensor for name, tensor in own.items()}
    given = {name: t for name, t in given.items() if name in wanted or name.startswith(BODY)}
    for name in [name for name in wanted if name.startswith(HEADS) and name not in given]:
        given[name] = wanted[name]
    if POSITIONS in given:
        given[POSITIONS] = resize_positions(given[POSITIONS], len(wanted[POSITIONS]))
    types = BODY + "token_type_embeddings.weight"
    if types in given and len(given[types]) == 2 and len(wanted[types]) == 3:
        given[types] = torch.cat([given[types], given[types][1:]])
    check_names(given, wanted, type(model).__name__)
    model.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in given.items()})


def resize_positions(positions: Tensor, length: int) -> Tensor:
    """Position embeddings [1 + g * g, D] for another square grid, [length, D]: bicubic, the class token's as it is."""
    if len(positions) == length:
        return positions
    before, after = (round((n - 1) ** 0.5) for n in (len(positions), length))
    grid = positions[1:].unflatten(0, (before, before)).permute(2, 0, 1)[None]
    grid = torch.nn.functional.interpolate(grid.float(), size=(after, after), mode="bicubic")
    return torch.cat([positions[:1], grid[0].permute(1, 2, 0).flatten(0, 1).to(positions.dtype)])
