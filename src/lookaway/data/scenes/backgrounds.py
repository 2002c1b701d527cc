"""Photographs that scenes can lie on: those inside scikit-image's wheel, so nothing is downloaded.

The files are read where the package lies, without importing it. All are in the public domain or CC0, as the docstrings
of `skimage.data` say of each.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ...core.errors import MissingDependency
from .things import PIXELS

__all__ = ["PHOTOGRAPHS", "TRAINING_PHOTOGRAPHS", "photograph"]

PHOTOGRAPHS = ("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coins.png", "gravel.png",
               "hubble_deep_field.jpg", "motorcycle_left.png", "rocket.jpg")  # fmt: skip
"""What train, calibration and test pictures lie on: crops of the same photographs, drawn alike."""
TRAINING_PHOTOGRAPHS = ("coffee.png", "grass.png", "ihc.png", "retina.jpg")
"""What pictures of the split `align` lie on, which a model may be trained on: never the others."""
LARGEST = 3
"""Side of the largest crop, in widths of the picture."""


def photograph(rng: np.random.Generator, split: str) -> tuple[Image.Image, str]:
    """A random square crop, 112 x 112 RGB, and the name of its photograph.

    Raises:
        MissingDependency: scikit-image is missing.
    """
    names = TRAINING_PHOTOGRAPHS if split == "align" else PHOTOGRAPHS
    name = names[rng.integers(len(names))]
    whole = _opened(name)
    side = int(rng.integers(PIXELS, min(*whole.size, LARGEST * PIXELS) + 1))
    left, top = (int(rng.integers(size - side + 1)) for size in whole.size)
    crop = whole.crop((left, top, left + side, top + side)).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)
    return (crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop), name


@lru_cache
def _opened(name: str) -> Image.Image:
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency.of("scikit-image", "photos")
    with Image.open(Path(spec.submodule_search_locations[0]) / "data" / name) as opened:
        return opened.convert("RGB")
