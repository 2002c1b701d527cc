"""A sample's picture as the model saw it: cropped and resized."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ..core.record import Sample
from .encoding import encode, open_image

__all__ = ["seen_picture"]

PIXELS = 224
"""Longest side of the picture that is given out."""


def seen_picture(processor: Any, sample: Sample, inputs: Mapping[str, Tensor] | None = None) -> tuple[str, bool]:
    """The first image as the model saw it (cropped and resized), as a base64 PNG, and whether its tokens tile it.

    Args:
        inputs: the encoded sample, where it was encoded already.

    Where the processor cuts an image into tiles, or there are several images, it is the original and tiles nothing.
    """
    from PIL import Image

    pixels = (encode(processor, [sample]).inputs if inputs is None else inputs).get("pixel_values")
    settings = getattr(processor, "image_processor", None)
    aligned = len(sample.images) == 1 and pixels is not None and pixels.dim() == 4 and len(pixels) == 1
    if aligned and pixels is not None and getattr(settings, "image_mean", None) is not None:
        assert settings is not None
        mean, spread = (np.array(part)[:, None, None] for part in (settings.image_mean, settings.image_std))
        values = pixels[0].cpu().numpy() * spread + mean
        picture = Image.fromarray(np.round(255 * values.clip(0, 1)).astype(np.uint8).transpose(1, 2, 0))
    else:
        picture, aligned = open_image(sample.images[0]).copy(), False
    picture.thumbnail((PIXELS, PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode(), aligned
