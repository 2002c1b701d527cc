"""One checkpoint folder and what the user asked of it: what every layout's `plan` is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .tokenizing import read_json

__all__ = ["Request", "generation_config", "pick", "rope", "stored_dtype"]


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
    """`rope_theta` and `rope_scaling` of a published config as transformers' one `rope_parameters`."""
    scaling = dict(config.get("rope_scaling") or {})
    kind = scaling.pop("type", None) or scaling.pop("rope_type", None) or "default"
    return {"rope_type": kind, "rope_theta": float(config.get("rope_theta") or default_theta), **scaling}


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
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=distinct[0] if len(distinct) == 1 else distinct,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )


def stored_dtype(config: Mapping[str, Any], found: torch.dtype) -> torch.dtype:
    """Floating-point type of a checkpoint: what its config says, else that of its first matrix."""
    name = config.get("torch_dtype") or config.get("dtype")
    known = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
    return known.get(str(name), found)
