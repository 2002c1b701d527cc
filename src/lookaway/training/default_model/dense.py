"""What stands where: one label per patch and attribute, for scenes (known) and easy-VQA (background colour + answers).

Dense labels teach a small vision tower far more per picture than a question does: a scene of eight things has some
seventy labelled patches, an answer is one word.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from ...data import easy_vqa, scenes

__all__ = ["ATTRIBUTES", "IGNORE", "PATCH", "SIDE", "easy_facts", "easy_labels", "mean_std", "pixels", "scene_labels"]

PATCH = 8
SIDE = scenes.PIXELS // PATCH  # 14: 196 patches
IGNORE = -100  # the index that torch's cross entropy leaves out
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": ("background", *scenes.COLOURS),
    "shape": scenes.SHAPES,
    "size": tuple(scenes.SIZES),
    "symbol": ("none", *scenes.SYMBOLS),
    "row": ("top", "middle", "bottom"),
    "col": ("left", "center", "right"),
}
mean_std = 0.5  # pixel normalisation, the same mean and deviation for every channel


def pixels(image: Image.Image) -> np.ndarray:  # [3, 112, 112]
    """What CLIPImageProcessorPil makes of a square picture: bicubic to 112, scaled, normalised."""
    if image.size != (scenes.PIXELS, scenes.PIXELS):
        image = image.resize((scenes.PIXELS, scenes.PIXELS), Image.Resampling.BICUBIC)
    array = np.asarray(image, dtype=np.float32) / 255.0
    return ((array - mean_std) / mean_std).transpose(2, 0, 1)


def _owners(owner: np.ndarray, least: float) -> np.ndarray:  # [112, 112] ids from 1 -> [196]
    """The thing that covers most of each patch, 0 where none covers the least share."""
    tiles = owner.reshape(SIDE, PATCH, SIDE, PATCH).transpose(0, 2, 1, 3).reshape(SIDE * SIDE, -1)
    counts = np.stack([(tiles == i).sum(1) for i in range(1, int(owner.max()) + 1)] or [np.zeros(SIDE * SIDE)])
    return np.where(counts.max(0) >= least * PATCH * PATCH, counts.argmax(0) + 1, 0)


def scene_labels(scene: scenes.Scene, least: float = 0.2) -> np.ndarray:  # [196, 6]
    """Labels of a scene in the order of ATTRIBUTES; background patches bear a colour label (0) only."""
    table = np.full((len(scene.things) + 1, len(ATTRIBUTES)), IGNORE)
    table[0, 0] = 0
    for number, t in enumerate(scene.things, 1):
        values = (t.colour, t.shape, t.size, t.symbol or "none", ATTRIBUTES["row"][t.row], ATTRIBUTES["col"][t.col])
        table[number] = [names.index(v) for names, v in zip(ATTRIBUTES.values(), values, strict=True)]
    return table[_owners(scenes.owners(scene), least)]


@lru_cache
def easy_facts(split: str) -> dict[int, dict[str, str]]:
    """Colour and shape of each picture, as its open questions' answers tell them."""
    facts: dict[int, dict[str, str]] = {}
    for item in easy_vqa.items(split):
        if item.family != "easy-yesno":
            facts.setdefault(item.image, {})[item.family.removeprefix("easy-")] = item.answer
    return facts


def easy_labels(split: str, image: int, picture: Image.Image, least: float = 0.2) -> np.ndarray:  # [196, 6]
    """Labels of an easy-VQA picture: what differs from the commonest colour is the thing; its size has no name."""
    small = np.asarray(picture, dtype=np.int64)
    values, counts = np.unique(small.reshape(-1, 3), axis=0, return_counts=True)
    differs = np.abs(small - values[counts.argmax()]).sum(-1) > 60
    mask = Image.fromarray((differs * 255).astype(np.uint8)).resize((scenes.PIXELS,) * 2, Image.Resampling.BILINEAR)
    owner = (np.asarray(mask) > 127).astype(np.int64)
    facts = easy_facts(split).get(image, {})
    thing = np.full(len(ATTRIBUTES), IGNORE)
    for column, name in enumerate(("colour", "shape")):
        if name in facts:
            thing[column] = ATTRIBUTES[name].index(facts[name])
    thing[3] = 0
    rows, cols = np.nonzero(owner)
    if len(rows):
        thing[4:] = [min(2, int(v.mean() * 3 / scenes.PIXELS)) for v in (rows, cols)]
    ground = np.full(len(ATTRIBUTES), IGNORE)
    ground[0] = 0
    return np.stack([ground, thing])[_owners(owner, least)]
