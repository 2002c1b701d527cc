"""Questions about a scene whose answers are known by construction: one function a family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .things import COLOURS, HELD_OUT, PAIRS, SHAPES, Scene, Thing

__all__ = ["FAMILIES", "WHOLE", "Question", "questions"]

FAMILIES = ("colour", "shape", "exist", "count", "relation", "hop", "comparison", "size", "read", "text")
WHOLE = ("count", "count-all", "more", "most")
"""Families whose answer takes every thing of the picture; the wordings of the last three were never trained."""
DIRECTIONS = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}


class Question(NamedTuple):
    """A question with its only right answer."""

    family: str
    text: str
    answer: str


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


def _count_all(s: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    return "how many shapes?", str(len(s.things))


def _more(s: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    tally = _tally(s, rng)
    pairs = [(a, b) for a in tally for b in tally if tally[a] > tally[b]]
    pair = _pick(rng, pairs)
    if pair is None:
        return None
    truth = bool(rng.random() < 0.5)
    a, b = pair if truth else pair[::-1]
    return f"are there more {a} shapes than {b} shapes?", "yes" if truth else "no"


def _most(s: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    field, word = _pick(rng, (("colour", "color"), ("shape", "shape")))
    (name, most), *others = Counter(getattr(t, field) for t in s.things).most_common()
    return None if others and others[0][1] == most else (f"what {word} is most common?", name)


def _tally(s: Scene, rng: np.random.Generator) -> dict[str, int]:
    """How often each colour, or each shape, that the picture shows comes."""
    field = _pick(rng, ("colour", "shape"))
    return Counter(getattr(t, field) for t in s.things)


_ASK: dict[str, Callable[[Scene, np.random.Generator], tuple[str, str] | None]] = {
    "colour": _colour, "shape": _shape, "exist": _exist, "count": _count, "relation": _relation, "hop": _hop,
    "comparison": _comparison, "size": _size, "read": _read, "text": _text, "count-all": _count_all, "more": _more,
    "most": _most,
}  # fmt: skip


def questions(scene: Scene, rng: np.random.Generator, families: Sequence[str]) -> list[Question]:
    """One question for each named family that this scene supports (a family may be named more than once)."""
    asked = ((family, _ASK[family](scene, rng)) for family in families)
    return [Question(family, *found) for family, found in asked if found is not None]
