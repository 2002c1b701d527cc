"""Generated scenes: coloured shapes on a jittered 3 x 3 grid, and questions whose answers are known by construction.

Why a generator: a small model must meet every kind of question many times, with balanced answers, and a reader of
exit curves needs families that differ in how much of the image they need. Every scene supports every family (scenes
that do not are drawn again), every object of a scene has its own (colour, shape) pair, so 'the red circle' is always
one object. Deterministic from (split, seed, index). The test split alone shows the pairs in `HELD_OUT`; no other split
draws them or asks about them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..core.errors import DataError
from ..core.record import Sample

__all__ = ["COLOURS", "FAMILIES", "HELD_OUT", "SHAPES", "SIZES", "SYMBOLS", "Question", "Scene", "Thing", "draw",
           "make_scene", "owners", "questions", "samples", "stream"]  # fmt: skip

PIXELS = 112
CELL = PIXELS // 3
COLOURS = {  # the names and values of easy-VQA, so that both sources speak of the same things
    "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0),
    "gray": (128, 128, 128), "teal": (0, 128, 128), "brown": (165, 42, 42), "yellow": (255, 255, 0),
}  # fmt: skip
SHAPES = ("circle", "rectangle", "triangle", "star", "cross")
SIZES = {"small": 10, "large": 16}  # half the width in pixels
SYMBOLS = tuple("123456789ABCEHKX")
HELD_OUT = frozenset((colour, ("star", "cross")[i % 2]) for i, colour in enumerate(COLOURS))
FAMILIES = ("colour", "shape", "exist", "count", "relation", "hop", "comparison", "size", "read", "text")
SPLITS = {"align": 0, "train": 1, "calibration": 2, "test": 3}
DIRECTIONS = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
PAIRS = tuple((c, s) for c in COLOURS for s in SHAPES)


class Thing(NamedTuple):
    """One object of a scene."""

    colour: str
    shape: str
    size: str
    symbol: str | None
    row: int
    col: int
    x: float
    y: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What a picture shows, before it is drawn."""

    things: tuple[Thing, ...]
    background: tuple[int, int, int]
    unseen: bool
    """True where held-out (colour, shape) pairs may be drawn and asked about (the test split)."""


class Question(NamedTuple):
    """A question with its only right answer."""

    family: str
    text: str
    answer: str


def stream(split: str, seed: int, index: int) -> np.random.Generator:
    """The random stream of one scene; streams of different splits never meet."""
    if split not in SPLITS:
        raise DataError(f"No split {split!r} of the generated scenes; there are {', '.join(SPLITS)}.")
    return np.random.default_rng([SPLITS[split], seed, index])


def make_scene(rng: np.random.Generator, count: int, unseen: bool = False, symbols: float = 0.75) -> Scene:
    """Put `count` things with pairwise different (colour, shape) in cells of the grid; large ones may have a symbol."""
    pairs = [p for p in PAIRS if unseen or p not in HELD_OUT]
    chosen = rng.choice(len(pairs), count, replace=False)
    cells = rng.choice(9, count, replace=False)
    things = []
    for pair, cell in zip(chosen, cells, strict=True):
        size = ("small", "large", "large")[rng.integers(3)] if symbols > 0 else ("small", "large")[rng.integers(2)]
        symbol = SYMBOLS[rng.integers(len(SYMBOLS))] if size == "large" and rng.random() < symbols else None
        row, col = divmod(int(cell), 3)
        room = CELL / 2 - SIZES[size]
        x, y = (CELL * (i + 0.5) + 0.5 + rng.uniform(-room, room) for i in (col, row))
        colour, shape = pairs[pair]
        things.append(Thing(colour, shape, size, symbol, row, col, x, y))
    red, green, blue = (int(v) for v in rng.integers(230, 256, 3))
    return Scene(tuple(things), (red, green, blue), unseen)


@lru_cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _outline(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    """Corners of a shape with centre (x, y) and half width r."""
    if shape == "rectangle":
        return [(x - r, y - 0.75 * r), (x + r, y - 0.75 * r), (x + r, y + 0.75 * r), (x - r, y + 0.75 * r)]
    if shape == "triangle":
        return [(x, y - r), (x + r, y + 0.9 * r), (x - r, y + 0.9 * r)]
    if shape == "star":
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        radii = np.where(np.arange(10) % 2 == 0, r * 1.05, r * 0.5)
        return [(float(x + d * np.cos(a)), float(y + d * np.sin(a))) for a, d in zip(angles, radii, strict=True)]
    w = 0.45 * r  # a cross
    return [(x - w, y - r), (x + w, y - r), (x + w, y - w), (x + r, y - w), (x + r, y + w), (x + w, y + w),
            (x + w, y + r), (x - w, y + r), (x - w, y + w), (x - r, y + w), (x - r, y - w), (x - w, y - w)]  # fmt: skip


def _fill(pen: ImageDraw.ImageDraw, t: Thing, ink: tuple[int, int, int] | int) -> None:
    r = SIZES[t.size]
    if t.shape == "circle":
        pen.ellipse((t.x - r, t.y - r, t.x + r, t.y + r), fill=ink)
    else:
        pen.polygon(_outline(t.shape, t.x, t.y, r), fill=ink)


def owners(scene: Scene) -> np.ndarray:  # [112, 112]
    """Which thing each pixel shows: its number from 1, 0 for the background."""
    image = Image.new("L", (PIXELS, PIXELS), 0)
    pen = ImageDraw.Draw(image)
    for number, t in enumerate(scene.things, 1):
        _fill(pen, t, number)
    return np.asarray(image)


def draw(scene: Scene, bold: bool = True) -> Image.Image:
    """The picture of a scene, 112 x 112 RGB; `bold` draws large, heavy symbols, which 8 px patches can tell apart."""
    image = Image.new("RGB", (PIXELS, PIXELS), scene.background)
    pen = ImageDraw.Draw(image)
    for t in scene.things:
        _fill(pen, t, COLOURS[t.colour])
        if t.symbol:
            ink = (0, 0, 0) if t.colour in ("yellow", "gray", "green") else (255, 255, 255)
            low = 3 if t.shape == "triangle" else 0  # a triangle is widest below its centre
            font, stroke = (_font(19), 1) if bold else (_font(16), 0)
            pen.text((t.x, t.y + low), t.symbol, fill=ink, font=font, anchor="mm", stroke_width=stroke)
    return image


def _unique(things: Sequence[Thing], *fields: str) -> list[Thing]:
    """Things that no other thing equals in all the given fields."""
    keys = [tuple(getattr(t, f) for f in fields) for t in things]
    return [t for t, key in zip(things, keys, strict=True) if keys.count(key) == 1]


def _pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    return options[int(rng.integers(len(options)))] if options else None


def _colour(s: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    t = _pick(rng, _unique(s.things, "shape"))
    return t and (f"what color is the {t.shape}?", t.colour)


def _shape(s: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    t = _pick(rng, _unique(s.things, "colour"))
    return t and (f"what is the {t.colour} shape?", t.shape)


def _exist(s: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    here = {(t.colour, t.shape) for t in s.things}
    if rng.random() < 0.5:
        return f"is there a {' '.join(_pick(rng, sorted(here)))}?", "yes"
    absent = [p for p in PAIRS if p not in here and (s.unseen or p not in HELD_OUT)]
    if rng.random() < 0.5:  # both halves are in the picture, on different things
        colours, shapes = {c for c, _ in here}, {f for _, f in here}
        absent = [p for p in absent if p[0] in colours and p[1] in shapes] or absent
    return f"is there a {' '.join(_pick(rng, absent))}?", "no"


def _count(s: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    field, names = _pick(rng, (("colour", tuple(COLOURS)), ("shape", SHAPES)))
    tally = {name: sum(getattr(t, field) == name for t in s.things) for name in names}
    number = _pick(rng, sorted(set(tally.values())))  # the number first: answers come balanced
    name = _pick(rng, [n for n, c in tally.items() if c == number])
    return f"how many {name} shapes?", str(number)


def _relation(s: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    truth = bool(rng.random() < 0.5)
    word = _pick(rng, tuple(DIRECTIONS))
    dr, dc = DIRECTIONS[word]
    fits = [(a, b) for a in s.things for b in s.things
            if (a.row - b.row) * dr + (a.col - b.col) * dc > 0]  # fmt: skip
    a, b = _pick(rng, fits) or (None, None)
    if a is None or b is None:
        return None
    if not truth:
        a, b = b, a
    return f"is the {a.name} {word} the {b.name}?", "yes" if truth else "no"


def _hop(s: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    at = {(t.row, t.col): t for t in s.things}
    steps = [(word, a, at[key]) for word, (dr, dc) in DIRECTIONS.items() for a in s.things
             if (key := (a.row + dr, a.col + dc)) in at]  # fmt: skip
    found = _pick(rng, steps)
    if found is None:
        return None
    word, a, b = found
    if rng.random() < 0.5:
        return f"what color is {word} the {a.name}?", b.colour
    return f"what shape is {word} the {a.name}?", b.shape


def _comparison(s: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    pairs = [(a, b) for a in s.things for b in s.things if a.size == "large" and b.size == "small"]
    pair = _pick(rng, pairs)
    if pair is None:
        return None
    truth, word = bool(rng.random() < 0.5), _pick(rng, ("larger", "smaller"))
    a, b = pair if truth == (word == "larger") else pair[::-1]
    return f"is the {a.name} {word} than the {b.name}?", "yes" if truth else "no"


def _size(s: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    wanted = ("small", "large")[rng.integers(2)]
    t = _pick(rng, [t for t in s.things if t.size == wanted])
    return t and (f"what size is the {t.name}?", t.size)


def _read(s: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    t = _pick(rng, [t for t in s.things if t.symbol])
    return t and (f"what is written on the {t.name}?", t.symbol or "")


def _text(s: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    a, b = sorted(int(v) for v in rng.integers(0, 10, 2))
    if a + b < 10 and rng.random() < 0.5:
        return f"what is {a} plus {b}?", str(a + b)
    return f"what is {b} minus {a}?", str(b - a)


_ASK = {"colour": _colour, "shape": _shape, "exist": _exist, "count": _count, "relation": _relation, "hop": _hop,
        "comparison": _comparison, "size": _size, "read": _read, "text": _text}  # fmt: skip


def questions(scene: Scene, rng: np.random.Generator, families: Sequence[str]) -> list[Question]:
    """One question for each named family that this scene supports (a family may be named more than once)."""
    asked = ((family, _ASK[family](scene, rng)) for family in families)
    return [Question(family, *found) for family, found in asked if found is not None]


def full_scene(rng: np.random.Generator, count: int, unseen: bool = False) -> tuple[Scene, list[Question]]:
    """A scene that supports every family, with one question of each."""
    while True:
        scene = make_scene(rng, count, unseen)
        asked = questions(scene, rng, FAMILIES)
        if len(asked) == len(FAMILIES):
            return scene, asked


def samples(split: str, n: int, seed: int = 0) -> list[Sample]:
    """n questions, one of each family per scene, 2 to 6 things a scene; `text` questions have no image."""
    out: list[Sample] = []
    for index in range((n + len(FAMILIES) - 1) // len(FAMILIES)):
        rng = stream(split, seed, index)
        scene, asked = full_scene(rng, 2 + index % 5, unseen=split == "test")
        image = draw(scene)
        for question in asked:
            seen = question.family != "text"
            content = [{"type": "image"}] * seen + [{"type": "text", "text": question.text}]
            meta = {"scene": index, "things": len(scene.things),
                    "held_out": any((t.colour, t.shape) in HELD_OUT for t in scene.things)}  # fmt: skip
            out.append(
                Sample(
                    f"scenes-{split}-{seed}-{index}-{question.family}",
                    [{"role": "user", "content": content}],
                    (image,) * seen,
                    question.answer,
                    question.family,
                    meta,
                )
            )
    return out[:n]
