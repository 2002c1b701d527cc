"""The anatomy of LaVIN (`hosts/lavin.py`), which transformers lacks."""

from __future__ import annotations

from typing import Any

from .base import Anatomy, family
from .families import decoder_shape, fingerprint

__all__ = ["lavin"]


@family("lavin")
def lavin(model: Any) -> Anatomy:
    """LaVIN: a handful of class tokens an image; adapters on the attentions route by the row's modality."""
    decoder = model.model.language_model
    return Anatomy(
        family="lavin",
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
    )
