"""One checkpoint folder and what the user asked of it: what every layout's `plan` is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...core.errors import PreparationError
from .json_files import read_json

__all__ = ["Request", "generation_config", "pick", "rope", "stored_dtype", "tower_layer"]


@dataclass(frozen=True)
class Request:
    """A folder in a published layout."""

    folder: Path
    config: dict[str, Any]
    """Its config.json, as it is."""
    vision_tower: Path | None = None
    """Folder of the vision tower, where the checkpoint only names it."""
    conversation: str | None = None
    """Prompt form; None: the published default."""


def pick(config: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The entries of a config that are there and not null."""
    return {name: config[name] for name in names if config.get(name) is not None}


def rope(config: Mapping[str, Any], default_theta: float = 10000.0) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` of a published config as transformers' one `rope_parameters`, which a config that
    transformers 5 saved has already."""
    scaling = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    kinds = [scaling.pop(key, None) for key in ("rope_type", "type")]
    kind = next((kind for kind in kinds if kind), "default")
    theta = scaling.pop("rope_theta", None) or config.get("rope_theta") or default_theta
    return {"rope_type": kind, "rope_theta": float(theta), **scaling}


def generation_config(folder: Path, config: Mapping[str, Any], tokenizer: Any, *ends: str) -> Any:
    """Greedy generation that stops where the published model stops.

    Args:
        ends: further end tokens of the prompt form.
    """
    from transformers import GenerationConfig

    published = read_json(folder / "generation_config.json")
    eos = published.get("eos_token_id", config.get("eos_token_id"))
    found = [eos] if isinstance(eos, int) else list(eos or [])
    found += [tokenizer.convert_tokens_to_ids(token) for token in ends]
    if not found:
        found = [tokenizer.eos_token_id]
    distinct = list(dict.fromkeys(found))
    if not all(isinstance(token, int) and 0 <= token < len(tokenizer) for token in distinct):
        raise PreparationError(
            f"The end tokens of the checkpoint in {folder} are {distinct}, which are not all ids of its tokenizer: "
            "check eos_token_id in its generation_config.json or config.json."
        )
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=distinct[0] if len(distinct) == 1 else distinct,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )


def tower_layer(config: Mapping[str, Any], layers: int) -> int:
    """`mm_vision_select_layer`: which of a tower's hidden states, its input's and its `layers` layers', is read.

    Raises:
        PreparationError: the tower has no such state.
    """
    layer = config["mm_vision_select_layer"]
    if not isinstance(layer, int) or not -layers - 1 <= layer <= layers:
        raise PreparationError(
            f"mm_vision_select_layer is {layer!r}, and the vision tower has {layers} layers. Compare config.json with "
            "the published one, or give the tower that it names."
        )
    return layer


def stored_dtype(config: Mapping[str, Any], found: torch.dtype) -> torch.dtype:
    """Floating-point type of a checkpoint: what its config says, else that of its first matrix."""
    name = config.get("torch_dtype") or config.get("dtype")
    known = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
    return known.get(str(name), found)
