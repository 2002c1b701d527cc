"""The picture of a scene, 112 x 112 RGB, on a plain background or on a picture of one's own."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .things import COLOURS, PIXELS, Scene, Thing

__all__ = ["draw", "owners"]

HALO = 2
"""Pixels of light rim around a thing on a photograph: without it a black circle in a shadow has no right answer."""


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


def _fill(pen: ImageDraw.ImageDraw, t: Thing, r: float, ink: tuple[int, int, int] | int) -> None:
    if t.shape == "circle":
        pen.ellipse((t.x - r, t.y - r, t.x + r, t.y + r), fill=ink)
    else:
        pen.polygon(_outline(t.shape, t.x, t.y, r), fill=ink)


def owners(scene: Scene) -> np.ndarray:  # [112, 112]
    """Which thing each pixel shows: its number from 1, 0 for the background."""
    image = Image.new("L", (PIXELS, PIXELS), 0)
    pen = ImageDraw.Draw(image)
    for number, t in enumerate(scene.things, 1):
        _fill(pen, t, scene.grid.half_width(t.size), number)
    return np.asarray(image)


def draw(scene: Scene, bold: bool = True, ground: Image.Image | None = None) -> Image.Image:
    """The picture of a scene.

    Args:
        bold: draw large, heavy symbols, which 8 px patches can tell apart.
        ground: 112 x 112 RGB, what the things lie on, with a light rim around each; None: the scene's own plain colour.
    """
    image = Image.new("RGB", (PIXELS, PIXELS), scene.background) if ground is None else ground.copy()
    pen = ImageDraw.Draw(image)
    if ground is not None:
        _rims(image, scene)
    for t in scene.things:
        _fill(pen, t, scene.grid.half_width(t.size), COLOURS[t.colour])
        if t.symbol:
            ink = (0, 0, 0) if t.colour in ("yellow", "gray", "green") else (255, 255, 255)
            low = 3 if t.shape == "triangle" else 0  # a triangle is widest below its centre
            font, stroke = (_font(scene.grid.font), 1) if bold else (_font(scene.grid.font - 3), 0)
            pen.text((t.x, t.y + low), t.symbol, fill=ink, font=font, anchor="mm", stroke_width=stroke)
    return image


def _rims(image: Image.Image, scene: Scene) -> None:
    """A band of `HALO` pixels around each thing, of the same width for every shape, below all things."""
    mask = Image.fromarray(np.where(owners(scene) > 0, 255, 0).astype(np.uint8))
    image.paste(scene.background, mask=mask.filter(ImageFilter.MaxFilter(2 * HALO + 1)))
