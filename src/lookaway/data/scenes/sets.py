"""Sets of scenes: the default model's own, and harder ones that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.record import Sample
from .backgrounds import photograph
from .drawing import draw
from .questions import FAMILIES, WHOLE, Question, questions
from .things import CROWDED, HELD_OUT, PLAIN, Grid, Scene, make_scene, stream

__all__ = ["SETS", "SceneSet", "full_scene", "samples", "samples_of"]

SEEN = tuple(family for family in FAMILIES if family != "text")


@dataclass(frozen=True)
class SceneSet:
    """A kind of pictures and the questions asked about them."""

    name: str
    families: tuple[str, ...]
    """One question of each is asked about every picture; `text` has no image."""
    fewest: int
    """Things of a picture: fewest, fewest + 1, ... in turn, ..."""
    most: int
    """... up to most."""
    number: int
    """Of its random streams: two sets never draw the same scenes."""
    grid: Grid = PLAIN
    photographs: bool = False
    """The things lie on photographs instead of a plain colour."""

    @property
    def sizes(self) -> int:
        return self.most - self.fewest + 1


SETS = {
    one.name: one
    for one in (
        SceneSet("scenes", FAMILIES, 2, 6, 0),
        SceneSet("crowded", SEEN, 7, 12, 1, CROWDED),
        SceneSet("photo", SEEN, 2, 6, 2, photographs=True),
        SceneSet("whole", WHOLE, 5, 9, 3),
    )
}


def full_scene(
    rng: np.random.Generator, count: int, unseen: bool = False, families: tuple[str, ...] = FAMILIES,
    grid: Grid = PLAIN,
) -> tuple[Scene, list[Question]]:  # fmt: skip
    """A scene that supports every family, with one question of each."""
    while True:
        scene = make_scene(rng, count, unseen, grid=grid)
        asked = questions(scene, rng, families)
        if len(asked) == len(families):
            return scene, asked


def samples(split: str, n: int, seed: int = 0) -> list[Sample]:
    """n questions about the default model's own scenes, 2 to 6 things each."""
    return samples_of(SETS["scenes"], split, n, seed)


def samples_of(kind: SceneSet, split: str, n: int, seed: int = 0) -> list[Sample]:
    """n questions of a set, one of each of its families per scene; `text` questions have no image.

    Raises:
        DataError: no such split.
        MissingDependency: the set needs photographs and scikit-image is missing.
    """
    out: list[Sample] = []
    for index in range((n + len(kind.families) - 1) // len(kind.families)):
        rng = stream(split, seed, index, kind.number)
        count = kind.fewest + index % kind.sizes
        scene, asked = full_scene(rng, count, split == "test", kind.families, kind.grid)
        ground, origin = photograph(rng, split) if kind.photographs else (None, None)
        image = draw(scene, ground=ground)
        for question in asked:
            seen = question.family != "text"
            content = [{"type": "image"}] * seen + [{"type": "text", "text": question.text}]
            meta = {"scene": index, "things": len(scene.things),
                    "held_out": any((t.colour, t.shape) in HELD_OUT for t in scene.things)}  # fmt: skip
            out.append(
                Sample(
                    f"{kind.name}-{split}-{seed}-{index}-{question.family}",
                    [{"role": "user", "content": content}],
                    (image,) * seen,
                    question.answer,
                    question.family,
                    meta if origin is None else {**meta, "photograph": origin},
                )
            )
    return out[:n]
