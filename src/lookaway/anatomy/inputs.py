"""Names of model inputs: which of a forward's keyword arguments hold pictures, and what else it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["BY_ROW", "IMAGE_INPUTS", "holds_images", "records_hidden_states", "records_inner_outputs"]

IMAGE_INPUTS = ("pixel_values", "pixel_values_images", "pixel_values_videos", "mm_encoder_outputs")
"""Pictures, or what a vision tower made of them."""
BY_ROW = ("input_ids", "attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids", "batch_num_images")
"""Inputs with one entry a row; all others are of images."""
_INNER_OUTPUTS = ("output_attentions", "output_router_logits")
"""Ask transformers to record what modules inside a decoder layer give."""


def holds_images(inputs: Mapping[str, Any]) -> bool:
    """A forward is given pictures. An empty dict of encoder outputs, as `generate` passes it for a text, holds none."""
    for name in IMAGE_INPUTS:  # asked for each decoded token
        value = inputs.get(name)
        if value is not None and (not isinstance(value, Mapping) or any(part is not None for part in value.values())):
            return True
    return False


def records_inner_outputs(inputs: Mapping[str, Any], *configs: Any) -> bool:
    """A forward is asked, by argument or by config, to record attentions or the like, one entry a layer."""
    return _records(_INNER_OUTPUTS, inputs, configs)


def records_hidden_states(inputs: Mapping[str, Any], *configs: Any) -> bool:
    """A forward is asked, by argument or by config, to record the states that enter and leave decoder layers."""
    return _records(("output_hidden_states",), inputs, configs)


def _records(names: tuple[str, ...], inputs: Mapping[str, Any], configs: tuple[Any, ...]) -> bool:
    return any(
        inputs.get(name) or (inputs.get(name) is None and any(getattr(config, name, False) for config in configs))
        for name in names
    )
