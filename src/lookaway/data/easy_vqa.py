"""easy-VQA: one shape on a plain background, 13 answers; the reader of the `easy-vqa` package's files.

Source: Victor Zhou, https://github.com/vzhou842/easy-VQA-py (MIT). Its 4,000 training images are divided by image id
(0-3199 align, 3200-3599 train, 3600-3999 calibration), its 1,000 test images are our test. As sampled by its author a
question's words alone answer 67 % of it (82 % of yes / no), so training draws yes and no in equal parts per question.
"""

from __future__ import annotations

import importlib.util
import json
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..core.errors import DataError, MissingDependency
from ..core.record import Sample

__all__ = ["RANGES", "Item", "balanced", "items", "picture", "samples"]

RANGES = {"align": ("train", 0, 3200), "train": ("train", 3200, 3600),
          "calibration": ("train", 3600, 4000), "test": ("test", 0, 1000), "test-seen": ("test", 0, 1000)}  # fmt: skip
FAMILIES = ("easy-colour", "easy-shape", "easy-yesno")


class Item(NamedTuple):
    """One question of easy-VQA."""

    image: int
    family: str
    text: str
    answer: str


def _folder(part: str) -> Path:
    spec = importlib.util.find_spec("easy_vqa")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency.of("easy-vqa", "mini")
    return Path(spec.submodule_search_locations[0]) / "data" / part


def _family(text: str, answer: str) -> str:
    if answer in ("yes", "no"):
        return "easy-yesno"
    return "easy-colour" if text.startswith("what color") or "the color" in text else "easy-shape"


@lru_cache
def items(split: str) -> tuple[Item, ...]:
    """All questions of a split, in the package's order."""
    if split not in RANGES:
        raise DataError(f"No split {split!r} of easy-VQA; there are {', '.join(RANGES)}.")
    part, low, high = RANGES[split]
    rows = json.loads((_folder(part) / "questions.json").read_text())
    found = []
    for text, answer, image in rows:
        if low <= image < high:
            found.append(Item(image, _family(text, answer), text, answer))
    return tuple(found)


def picture(split: str, image: int) -> Image.Image:
    """The 64 x 64 RGB picture with this id."""
    path = _folder(RANGES[split][0]) / "images" / f"{image}.png"
    with Image.open(path) as opened:
        return opened.convert("RGB")


def balanced(split: str, rng: np.random.Generator) -> tuple[Item, ...]:
    """Questions of a split with as many yes as no for every question string; open questions as they are."""
    groups: dict[str, dict[str, list[Item]]] = defaultdict(lambda: defaultdict(list))
    kept: list[Item] = []
    for item in items(split):
        if item.family == "easy-yesno":
            groups[item.text][item.answer].append(item)
        else:
            kept.append(item)
    for by_answer in groups.values():
        size = min(len(found) for found in by_answer.values()) if len(by_answer) == 2 else 0
        for found in by_answer.values():
            kept += [found[i] for i in rng.permutation(len(found))[:size]]
    return tuple(kept[i] for i in rng.permutation(len(kept)))


def samples(split: str, n: int, seed: int = 0) -> list[Sample]:
    """n questions of a split drawn at random without repeats, as sampled by the author of easy-VQA."""
    everything = items(split)
    if n > len(everything):
        raise DataError(f"easy-VQA {split!r} has {len(everything)} questions; {n} were asked for.")
    order = np.random.default_rng([seed, n and 1]).permutation(len(everything))[:n]
    out = []
    for position in order:
        item = everything[position]
        content = [{"type": "image"}, {"type": "text", "text": item.text}]
        out.append(Sample(f"easy-{split}-{item.image}-{position}", [{"role": "user", "content": content}],
                          (picture(split, item.image),), item.answer, item.family, {"image": item.image}))  # fmt: skip
    return out
