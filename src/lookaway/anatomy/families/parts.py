"""What families share: the common shape of a model, and its fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core.base_model import BaseModel
from ...core.cost import DecoderShape
from ..base import Anatomy, VisionTower
from .shapes import decoder_shape, has_experts, shape_of_modules

__all__ = ["WINDOWS", "fingerprint", "tower_attention", "usual"]

WINDOWS = "flash attention, and decoding behind prompts padded on the right (sliding windows)"
"""What is refused where the decoder has sliding windows."""


def usual(model: Any, **other: Any) -> Anatomy:
    """A model of the usual shape: `model.model.language_model` with `layers` and `norm`, `model.lm_head` beside it.

    Args:
        other: fields that this family has otherwise, and further ones.
    """
    decoder = other.pop("language_model", None) or model.model.language_model
    fields: dict[str, Callable[[], Any]] = {
        "backbone": lambda: model.model,
        "layers": lambda: decoder.layers,
        "norm": lambda: decoder.norm,
        "head": lambda: model.lm_head,
        "image_token_id": lambda: model.config.image_token_id,
        "first_prunable_layer": lambda: 1,
        "shape": lambda: _shape(model, decoder),
        "base": lambda: fingerprint(model),
    }
    found = {name: make() for name, make in fields.items() if name not in other}
    return Anatomy(family=model.config.model_type, model=model, language_model=decoder, **{**found, **other})


def _shape(model: Any, decoder: Any) -> DecoderShape:
    text = model.config.get_text_config()
    if has_experts(text):
        return shape_of_modules(decoder.layers, model)
    return decoder_shape(text, model.dtype.itemsize)


def tower_attention(tower: Any, layer: int, class_token: bool) -> VisionTower | None:
    """The attention in front of the states `hidden_states[layer]` of a CLIP-like or SigLIP-like tower; None where the
    tower is built otherwise.

    Args:
        layer: as configs count them: 0 is the embeddings, -1 the last layer's states.
    """
    encoder = getattr(getattr(tower, "vision_model", tower), "encoder", None)
    layers = getattr(encoder, "layers", None)
    if layers is None:
        return None
    place = layer - 1 if layer > 0 else len(layers) + layer
    attention = getattr(layers[place], "self_attn", None) if 0 <= place < len(layers) else None
    return None if attention is None else VisionTower(attention, class_token)


def fingerprint(model: Any) -> BaseModel:
    """What a trained policy is checked against."""
    text = model.config.get_text_config()
    return BaseModel(
        architecture=type(model).__name__,
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        id=_public_name(getattr(model.config, "_name_or_path", "") or ""),
        revision=getattr(model.config, "_commit_hash", None) or "",
    )


def _public_name(name_or_path: str) -> str:
    """A hub id as it is; of a local folder its name alone: a saved policy tells nobody where its maker keeps files."""
    path = Path(name_or_path)
    return path.name if path.is_absolute() or path.is_dir() else name_or_path
