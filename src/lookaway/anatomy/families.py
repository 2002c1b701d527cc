"""One short function a family, registered by `config.model_type` (docs/adding-a-model.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.artifact import BaseModel
from ..core.cost import DecoderShape
from .base import Anatomy, family

__all__ = ["decoder_shape", "fingerprint", "llava", "llava_next", "llava_onevision"]


@family("llava")
def llava(model: Any) -> Anatomy:
    """LLaVA: one picture, one fixed grid of visual tokens."""
    return _llava_like(model, grid=_fixed_grid(model.config))


@family("llava_next")
def llava_next(model: Any) -> Anatomy:
    """LLaVA-NeXT: any resolution, so the number of visual tokens follows from the picture's size."""
    return _llava_like(model)


@family("llava_onevision")
def llava_onevision(model: Any) -> Anatomy:
    """LLaVA-OneVision: any resolution, several pictures, videos."""
    return _llava_like(model, other_visual_ids=(model.config.video_token_id,))


def _llava_like(model: Any, **more: Any) -> Anatomy:
    decoder = model.model.language_model
    return Anatomy(
        family=model.config.model_type,
        model=model,
        backbone=model.model,
        language_model=decoder,
        layers=decoder.layers,
        norm=decoder.norm,
        head=model.lm_head,
        image_token_id=model.config.image_token_id,
        first_prunable_layer=1,
        shape=decoder_shape(model.config.text_config, model.dtype.itemsize),
        base=fingerprint(model),
        **more,
    )


def _fixed_grid(config: Any) -> tuple[int, int] | None:
    """(rows, columns) of a LLaVA's visual tokens; None where the vision tower does not give a plain square."""
    vision = config.vision_config
    size, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    if not isinstance(size, int) or not isinstance(patch, int) or size % patch:
        return None
    count = getattr(config, "image_seq_length", None)
    side = size // patch
    return (side, side) if count in (None, side * side) else None


def decoder_shape(text_config: Any, dtype_bytes: int) -> DecoderShape:
    """The sizes of a Llama-like decoder, from its config."""
    heads = text_config.num_attention_heads
    return DecoderShape(
        num_layers=text_config.num_hidden_layers,
        hidden_size=text_config.hidden_size,
        intermediate_size=text_config.intermediate_size,
        num_heads=heads,
        num_kv_heads=getattr(text_config, "num_key_value_heads", None) or heads,
        head_dim=getattr(text_config, "head_dim", None) or text_config.hidden_size // heads,
        vocab_size=text_config.vocab_size,
        dtype_bytes=dtype_bytes,
    )


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
