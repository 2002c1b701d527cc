"""What a model's decoder costs, from its config alone: the modules are made without memory, and no weight is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..core.cost import DecoderShape
from .find import anatomy_of

__all__ = ["shape_from_modules"]


def shape_from_modules(config: Any) -> tuple[DecoderShape, int]:
    """(sizes of the decoder, two bytes an element; first layer inside it before which something may leave, the number
    of layers where only removal before the decoder is possible).

    Raises:
        UnknownAnatomy, UnsupportedModel: as `anatomy_of`.
    """
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    anatomy = anatomy_of(model)
    return replace(anatomy.shape, dtype_bytes=2), anatomy.first_prunable_layer
