"""A scene before it is drawn: coloured shapes on a jittered grid, deterministic from (split, seed, index).

Every object of a scene has its own (colour, shape) pair, so 'the red circle' is always one object. The test split alone
shows the pairs in `HELD_OUT`; no other split draws them or asks about them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...core.errors import DataError

__all__ = ["COLOURS", "CROWDED", "HELD_OUT", "PAIRS", "PIXELS", "PLAIN", "SHAPES", "SIZES", "SPLITS", "SYMBOLS", "Grid",
           "Scene", "Thing", "make_scene", "stream"]  # fmt: skip

PIXELS = 112
COLOURS = {  # the names and values of easy-VQA, so that both sources speak of the same things
    "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0),
    "gray": (128, 128, 128), "teal": (0, 128, 128), "brown": (165, 42, 42), "yellow": (255, 255, 0),
}  # fmt: skip
SHAPES = ("circle", "rectangle", "triangle", "star", "cross")
SIZES = ("small", "large")
SYMBOLS = tuple("123456789ABCEHKX")
HELD_OUT = frozenset((colour, ("star", "cross")[i % 2]) for i, colour in enumerate(COLOURS))
SPLITS = {"align": 0, "train": 1, "calibration": 2, "test": 3, "test-seen": 4}
"""Numbers of the random streams; `test-seen` is drawn like train and calibration, without the pairs in `HELD_OUT`."""
PAIRS = tuple((c, s) for c in COLOURS for s in SHAPES)


@dataclass(frozen=True)
class Grid:
    """Where things may stand, and how large they are."""

    cells: int
    """Rows, and columns."""
    small: int
    """Half the width of small things, in pixels."""
    large: int
    """The same of large ones."""
    font: int
    """Size of the symbols on large things."""

    def half_width(self, size: str) -> int:
        return self.small if size == "small" else self.large


PLAIN = Grid(3, 10, 16, 19)
CROWDED = Grid(4, 8, 13, 15)
"""Sixteen cells, for up to 16 things; they are drawn smaller."""


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
    grid: Grid = PLAIN


def stream(split: str, seed: int, index: int, kind: int = 0) -> np.random.Generator:
    """The random stream of one scene; streams of different splits, and of different kinds of scenes, never meet."""
    if split not in SPLITS:
        raise DataError(f"No split {split!r} of the generated scenes; there are {', '.join(SPLITS)}.")
    return np.random.default_rng([SPLITS[split], seed, index, kind] if kind else [SPLITS[split], seed, index])


def make_scene(
    rng: np.random.Generator, count: int, unseen: bool = False, symbols: float = 0.75, grid: Grid = PLAIN
) -> Scene:
    """Put `count` things with pairwise different (colour, shape) in cells of the grid; large ones may have a symbol."""
    pairs = [p for p in PAIRS if unseen or p not in HELD_OUT]
    chosen = rng.choice(len(pairs), count, replace=False)
    cells = rng.choice(grid.cells**2, count, replace=False)
    cell_size = PIXELS // grid.cells
    edge = (PIXELS - cell_size * grid.cells) / 2
    things = []
    for pair, cell in zip(chosen, cells, strict=True):
        size = ("small", "large", "large")[rng.integers(3)] if symbols > 0 else ("small", "large")[rng.integers(2)]
        symbol = SYMBOLS[rng.integers(len(SYMBOLS))] if size == "large" and rng.random() < symbols else None
        row, col = divmod(int(cell), grid.cells)
        room = cell_size / 2 - grid.half_width(size)
        x, y = (cell_size * (i + 0.5) + edge + rng.uniform(-room, room) for i in (col, row))
        colour, shape = pairs[pair]
        things.append(Thing(colour, shape, size, symbol, row, col, x, y))
    red, green, blue = (int(v) for v in rng.integers(230, 256, 3))
    return Scene(tuple(things), (red, green, blue), unseen, grid)
