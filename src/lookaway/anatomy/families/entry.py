"""Models whose inside is not of the common pattern: where their decoder begins is enough for removal before it.

What matches is only a candidate: the engine carries out a dry run before the first policy is attached
(engine/self_check.py), and refuses it where the decoder on a shorter prompt gives something else than the model does.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from ..base import Anatomy
from .parts import usual
from .shapes import shape_of_modules

__all__ = ["NoEntry", "by_entry"]

NORMS = ("norm", "final_layernorm", "embedding_norm", "ln_f", "norm_f")
LAYERS = ("layers", "blocks", "h")


class NoEntry(Exception):
    """No decoder was found that takes the image among its own tokens; the text says why."""


def by_entry(model: Any, reason: str, **other: Any) -> Anatomy:
    """The anatomy of a model that visual tokens may leave before the decoder only.

    Args:
        reason: why not inside it (`Anatomy.only_before`).
        other: fields that this family has otherwise, and further ones.

    Raises:
        NoEntry: there is no one decoder that takes `inputs_embeds`, or no placeholder for visual tokens.
    """
    config: Any = model.config
    token = other.pop("image_token_id", None) or visual_token(config)
    if token is None:
        raise NoEntry("its config names no token that stands for visual tokens")
    decoder: Any = other.pop("language_model", None) or _decoder(model, config.get_text_config())
    layers = next(getattr(decoder, name) for name in LAYERS if hasattr(decoder, name))
    inner = getattr(model, "model", None)
    around = isinstance(inner, nn.Module) and inner is not decoder and _takes(inner, "input_ids", "attention_mask")
    fields = {
        "backbone": inner if around else model,
        "language_model": decoder,
        "layers": layers,
        "shape": shape_of_modules(layers, model),
        "norm": next((getattr(decoder, name) for name in NORMS if hasattr(decoder, name)), nn.Identity()),
        "head": model.get_output_embeddings(),
        "image_token_id": token,
        "other_visual_ids": tuple(
            found for name in ("video_token_id", "video_token_index")
            if isinstance(found := getattr(config, name, None), int)
        ),
        "first_prunable_layer": len(layers),
        "only_before": reason,
        "found_by": "rule",
        "first_position": None,
        "prefix_is_causal": False,
    }  # fmt: skip
    return usual(model, **{**fields, **other})


def visual_token(config: Any) -> int | None:
    """The id that stands for an image's visual tokens in `input_ids`; None where the config names none."""
    names = ("image_token_id", "image_token_index", "image_patch_id")
    found = next((value for name in names if isinstance(value := getattr(config, name, None), int)), None)
    return found


def _decoder(model: Any, text: Any) -> nn.Module:
    """The innermost module of the text model's own config that takes embeddings and owns its layers."""
    found = [
        part for part in model.modules()
        if type(getattr(part, "config", None)) is type(text)
        and any(isinstance(getattr(part, name, None), nn.ModuleList) for name in LAYERS)
        and _takes(part, "inputs_embeds", "attention_mask", "position_ids", "past_key_values")
        and part is not model
    ]  # fmt: skip
    if len(found) != 1:
        raise NoEntry(f"it has {len(found)} modules that look like the decoder, not one")
    return found[0]


def _takes(module: nn.Module, *names: str) -> bool:
    return set(names) <= set(inspect.signature(type(module).forward).parameters)
