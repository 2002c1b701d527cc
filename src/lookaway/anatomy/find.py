"""`anatomy_of(model)`: the anatomy of any supported model, by its family's function or by the common pattern."""

from __future__ import annotations

import difflib
from typing import Any
from weakref import WeakKeyDictionary

import transformers
from torch import nn

from ..core.errors import UnknownAnatomy, UnsupportedModel
from . import families  # noqa: F401  (registers them)
from .base import Anatomy
from .families.by_pattern import BEFORE
from .families.entry import NoEntry, by_entry
from .families.rule import NotOfThePattern, by_rule
from .registry import FAMILIES, REFUSED

__all__ = ["TRANSFORMERS", "anatomy_of", "check_transformers", "refute_inside"]


NOT_YET = (5, 24)
"""The first transformers that is refused: there decoder layers are handed their KV cache as `cache`, no longer as
`past_key_values`, so what left would be forgotten behind the prompt."""


TRANSFORMERS = ">=5.16,<5.24"
"""The releases that this version reads, as pip takes them (the same as in pyproject.toml)."""


def check_transformers() -> None:
    """Raise UnsupportedModel where transformers is newer than what this version was tested with."""
    found = transformers.__version__
    if tuple(int(part) for part in found.split(".")[:2]) >= NOT_YET:
        raise UnsupportedModel(
            f"transformers {found} hands KV caches to decoder layers under another name than this lookaway reads. "
            f"Install one that it knows: pip install 'transformers{TRANSFORMERS}'."
        )


def anatomy_of(model: Any) -> Anatomy:
    """What was found in a model: where its decoder layers, norm, head and visual tokens are.

    Raises:
        UnknownAnatomy: no family is registered for this architecture, and it is not of the common pattern.
        UnsupportedModel: the model has no visual tokens, is only a part of a supported one, or of a refused family; or
            transformers is newer than what this version of lookaway was tested with.
    """
    check_transformers()
    model = model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if model_type in FAMILIES:
        if not hasattr(model, "lm_head"):
            raise UnsupportedModel(
                f"{type(model).__name__} has no language head. Load the whole model: "
                f"AutoModelForImageTextToText.from_pretrained(...)"
            )
        return FAMILIES[model_type](model)
    name, known = type(model).__name__, ", ".join(sorted(FAMILIES))
    if model_type in REFUSED:
        raise UnsupportedModel(f"{REFUSED[model_type][0]} is not supported: {REFUSED[model_type][1]}")
    if isinstance(model, nn.Module) and model_type and not any(hasattr(config, key) for key in _VISUAL_KEYS):
        raise UnsupportedModel(
            f"{name} (model_type {model_type!r}) is a text-only model: it has no visual tokens that could leave. "
            f"lookaway needs a vision-language model; families it knows: {known}."
        )
    known_reason = BEFORE.get(str(model_type))
    why = known_reason or (_refuted.get(model) if isinstance(model, nn.Module) else None)
    try:
        if why is None:
            return by_rule(model)
    except NotOfThePattern as reason:
        why = str(reason)
    try:
        return by_entry(model, known_reason or f"its decoder is not of the common pattern ({why})")
    except (NoEntry, AttributeError) as reason:
        why = f"{why}; and {reason}"
    near = difflib.get_close_matches(str(model_type), FAMILIES, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UnknownAnatomy(
        f"No anatomy for {name} (model_type {model_type!r}), and it is not of the common pattern: {why}.{hint} "
        f"Known: {known}. "
        "docs/adding-a-model.md tells how to add one: a function of about ten lines."
    )


_refuted: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""Models whose decoder the common pattern was refuted for, by a dry run; with the reason."""


def refute_inside(model: nn.Module, reason: str) -> None:
    """Note that removal inside this model's decoder was tried and is not right: before the decoder remains."""
    _refuted[model] = reason


_VISUAL_KEYS = ("vision_config", "image_token_id", "image_token_index", "vision_tower", "mm_vision_tower", "visual")
