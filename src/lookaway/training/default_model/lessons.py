"""What is shown and asked in alignment: pictures with many questions each, in a mix that grows harder.

Scenes use the weights of `FAMILY_WEIGHTS` (families that need two looks come more often). easy-VQA pictures are asked
its own 107 question strings, with answers derived from the picture's colour and shape, so that every yes / no string
is answered yes as often as no.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ...data import easy_vqa, scenes
from .dense import ATTRIBUTES, easy_facts, easy_labels, pixels, scene_labels

__all__ = ["FAMILY_WEIGHTS", "Lesson", "easy_lesson", "lesson", "scene_lesson"]

FAMILY_WEIGHTS: Mapping[str, float] = {"colour": 1, "shape": 1, "exist": 2, "count": 1, "relation": 2.5, "hop": 3,
                                       "comparison": 1.5, "size": 1, "read": 1.5, "text": 0.5}  # fmt: skip
PAIRED = ("relation", "hop", "comparison")
SKEWED, SECOND = ("relation", "comparison"), re.compile("smaller|right of|below")
POSITIVE = ("does the image contain a {}?", "is a {} present?", "is there a {} in the image?", "is there a {}?")
NEGATIVE = (
    "does the image not contain a {}?",
    "is no {} present?",
    "is there not a {} in the image?",
    "is there not a {}?",
)
COLOUR_FORMS = ("what color is the {}?", "what is the color of the {}?")
SHAPE_FORMS = (
    "what is the {} shape?",
    "what shape does the image contain?",
    "what shape is in the image?",
    "what shape is present?",
)
EASY_SHAPES = ("circle", "rectangle", "triangle")


class Lesson(NamedTuple):
    """One picture and what is asked about it."""

    pixels: np.ndarray  # [3, 112, 112]
    shown: np.ndarray  # [196] bool: patches on which a thing stands
    questions: list[scenes.Question]


def describe(scene: scenes.Scene, rng: np.random.Generator, places: bool = False) -> scenes.Question | None:
    """Name a thing by one property, answer all others: five labels a question, all about what goes with what.

    `places` asks as often where a thing is, the first half of every question about two things.
    """
    t = scene.things[rng.integers(len(scene.things))]
    place = f"{ATTRIBUTES['row'][t.row]} {ATTRIBUTES['col'][t.col]}"
    mark = f" {t.symbol}" if t.symbol else ""
    kind = rng.integers(6 if places else 3)
    if kind > 2:
        return scenes.Question("where", f"where is the {t.name}?", place)
    if kind == 0:
        return scenes.Question("describe", f"describe the {place}.", f"{t.size} {t.colour} {t.shape}{mark}")
    field, name, other = ("colour", f"{t.colour} shape", t.shape) if kind == 1 else ("shape", t.shape, t.colour)
    if sum(getattr(o, field) == getattr(t, field) for o in scene.things) > 1:
        return None
    return scenes.Question("describe", f"describe the {name}.", f"{other} {t.size} {place}{mark}")


def scene_lesson(
    rng: np.random.Generator,
    things: int,
    asked: int,
    described: float = 0.0,
    pairs: float = 1.0,
    skew: float = 0.0,
) -> Lesson:
    """A scene and about `asked` different questions, a share of them to describe a thing.

    `pairs` weighs the families about two things; above 1, some descriptions ask where a thing is. `skew` is the share
    of questions with the second word of a pair of opposites (smaller, right of, below) that are left out: with both as
    often, yes and no are an exclusive or of word and picture, which gives no gradient to begin with.
    """
    scene = scenes.make_scene(rng, things)
    descriptions = [describe(scene, rng, pairs > 1) for _ in range(rng.binomial(asked, described))] if described else []
    names = list(FAMILY_WEIGHTS)
    weights = np.array([w * (pairs if n in PAIRED else 1.0) for n, w in FAMILY_WEIGHTS.items()])
    families = [names[i] for i in rng.choice(len(names), 2 * asked, p=weights / weights.sum())]
    found = list(dict.fromkeys([q for q in descriptions if q] + scenes.questions(scene, rng, families)))[:asked]
    if skew:
        found = [q for q in found if not (q.family in SKEWED and SECOND.search(q.text)) or rng.random() > skew]
    if described:
        found = [found[i] for i in rng.permutation(len(found))]  # where columns run out, all families lose alike
    return Lesson(pixels(scenes.draw(scene)), scene_labels(scene)[:, 0] > 0, found)


def easy_question(rng: np.random.Generator, colour: str, shape: str) -> scenes.Question:
    """One of easy-VQA's question strings with its answer for a picture of this thing."""
    kind = rng.integers(4)
    if kind == 0:
        form = COLOUR_FORMS[rng.integers(2)]
        return scenes.Question("easy-colour", form.format((shape, "shape")[rng.integers(2)]), colour)
    if kind == 1:
        return scenes.Question("easy-shape", SHAPE_FORMS[rng.integers(4)].format(colour), shape)
    true = rng.random() < 0.5  # whether the thing named is there: as often as not, whatever the string
    if rng.random() < 0.6:
        others = [c for c in scenes.COLOURS if c != colour]
        name = f"{colour if true else others[rng.integers(len(others))]} shape"
    else:
        others = [s for s in EASY_SHAPES if s != shape]
        name = shape if true else others[rng.integers(len(others))]
    positive = rng.random() < 0.5
    text = (POSITIVE if positive else NEGATIVE)[rng.integers(4)].format(name)
    return scenes.Question("easy-yesno", text, "yes" if true == positive else "no")


@lru_cache
def _known(split: str) -> tuple[int, ...]:
    return tuple(sorted(image for image, facts in easy_facts(split).items() if len(facts) == 2))


def easy_lesson(rng: np.random.Generator, asked: int, split: str = "align") -> Lesson:
    """An easy-VQA picture and about `asked` different questions."""
    image = _known(split)[rng.integers(len(_known(split)))]
    facts, picture = easy_facts(split)[image], easy_vqa.picture(split, image)
    drawn = (easy_question(rng, facts["colour"], facts["shape"]) for _ in range(2 * asked))
    found = list(dict.fromkeys(drawn))[:asked]
    return Lesson(pixels(picture), easy_labels(split, image, picture)[:, 0] > 0, found)


def lesson(
    rng: np.random.Generator,
    progress: float,
    easy: float,
    asked: int,
    described: float = 0.0,
    pairs: float = 1.0,
    skew: float = 0.0,
) -> Lesson:
    """The lesson for a moment of training (0 begin, 1 end): two things first, then up to three, then up to six."""
    if rng.random() < easy:
        return easy_lesson(rng, asked)
    most = 2 if progress < 0.08 else 3 if progress < 0.25 else 6
    return scene_lesson(rng, int(rng.integers(2, most + 1)), asked, described, pairs, skew)
