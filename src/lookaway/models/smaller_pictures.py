"""A smaller picture: the baseline of VTC-Bench (arXiv 2510.07143), before the vision tower.

A model that takes pictures at their own size makes fewer visual tokens of a smaller one, and its vision tower runs
faster, too. A model whose processor brings every picture to one size gains nothing: that is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..core.errors import SettingsError
from ..core.record import Sample
from .encoding import encode, open_image

__all__ = ["smaller_picture", "smaller_pictures"]


def smaller_picture(image: Any, share: float) -> Any:
    """The picture with `share` of its pixels, both sides shortened alike.

    Args:
        image: a PIL image, or a path.
        share: above 0, at most 1; 0.25 halves each side. A side keeps one pixel at least.

    Raises:
        SettingsError: the share is out of range.
        DataError: the picture cannot be read.
    """
    from PIL import Image

    if not 0 < share <= 1:
        raise SettingsError(f"A smaller picture has a share of the pixels above 0 and at most 1, not {share!r}.")
    whole = open_image(image)
    width, height = (max(1, round(side * share**0.5)) for side in whole.size)
    return whole if (width, height) == whole.size else whole.resize((width, height), Image.Resampling.LANCZOS)


def smaller_pictures(processor: Any, samples: Sequence[Sample], share: float) -> list[Sample]:
    """The samples with smaller pictures, for a model whose visual tokens follow from a picture's size.

    A processor may round sides up and has a least size, so the number of visual tokens is near `share`, not equal to
    it: report what a run counts.

    Raises:
        SettingsError: the share is out of range, or the processor makes as many tokens of a smaller picture.
        DataError: a picture cannot be read.
    """
    smaller = [
        replace(sample, images=tuple(smaller_picture(image, share) for image in sample.images)) for sample in samples
    ]
    pairs = [(one, other) for one, other in zip(samples, smaller, strict=True) if one.images]
    if share < 1 and pairs and not any(_length(processor, other) < _length(processor, one) for one, other in pairs[:8]):
        raise SettingsError(
            f"{type(processor).__name__} makes as many visual tokens of a picture with {share:.0%} of the pixels: it "
            "brings pictures to one size, or to a least size. Use la.Downsample(factor), which pools the tokens, or "
            "raise what the processor allows (min_pixels, size)."
        )
    return smaller


def _length(processor: Any, sample: Sample) -> int:
    """Tokens of the sample's prompt."""
    return int(encode(processor, [sample]).inputs["input_ids"].shape[1])
