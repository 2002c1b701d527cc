"""The sizes of a decoder, as vLLM's configuration gives them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...anatomy.families.shapes import decoder_shape, has_experts
from ...anatomy.from_config import shape_from_modules
from ...core.cost import DecoderShape

__all__ = ["sizes_of"]


def sizes_of(model_config: Any) -> DecoderShape:
    """The decoder's sizes, from vLLM's `ModelConfig`; of mixtures of experts layer by layer, by those that a token
    visits."""
    text = model_config.hf_text_config
    if not has_experts(text):
        return decoder_shape(text, model_config.dtype.itemsize)
    return replace(shape_from_modules(model_config.hf_config)[0], dtype_bytes=model_config.dtype.itemsize)
