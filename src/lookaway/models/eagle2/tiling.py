"""How Eagle2 cuts a picture into tiles, which is not how InternVL does.

Source: arXiv 2501.14818, section 3.3, and the published inference code.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from transformers import GotOcr2ImageProcessorPil
from transformers.image_utils import SizeDict
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorKwargs

__all__ = ["Eagle2ImageProcessorPil", "best_grid"]

ENOUGH_AREA = 0.6
"""Tiles need no more pixels than this share of the picture's."""


def best_grid(width: int, height: int, tile: int, fewest: int, most: int) -> tuple[int, int]:
    """Columns and rows of tiles for a picture of width x height pixels.

    The grid with the largest min(tiles' area / picture's area, 0.6) x min(ratio of the aspects, its inverse); of equal
    ones the first of those with the fewest tiles.
    """
    aspect, area = width / height, width * height

    def fit(grid: tuple[int, int]) -> float:
        wanted = grid[0] / grid[1]
        covered = min(grid[0] * grid[1] * tile * tile / area, ENOUGH_AREA)
        return covered * min(wanted / aspect, aspect / wanted)

    return max(_grids(fewest, most), key=fit)


@lru_cache(maxsize=16)
def _grids(fewest: int, most: int) -> list[tuple[int, int]]:
    """Columns and rows, by number of tiles.

    Large squares fit 5 x 4 tiles as well as 4 x 5, and the first wins. The public code has that order from a set of
    tuples, which in CPython depends on the numbers and on the order in which they were put in: so it is built alike.
    """
    found = {
        (columns, rows)
        for side in range(fewest, most + 1)
        for columns in range(1, side + 1)
        for rows in range(1, side + 1)
        if fewest <= columns * rows <= most
    }
    return sorted(found, key=lambda grid: grid[0] * grid[1])


class Eagle2ImageProcessorKwargs(GotOcr2ImageProcessorKwargs, total=False):  # type: ignore[call-arg]
    r"""
    resizer (`str`, *optional*, defaults to `self.resizer`):
        'pil' (as first published) or 'torch' (as published for `eagle_2_5_vl`), which round pixels differently.
    """

    resizer: str


class Eagle2ImageProcessorPil(GotOcr2ImageProcessorPil):
    """Tiles of one size and, behind more than one of them, the whole picture as a last tile.

    Args:
        resizer: 'pil' resizes with Pillow's bicubic filter and normalises pixels in two steps; 'torch' resizes with
            PyTorch's on uint8 and normalises in one step. Each is exact for its edition of the public code.
    """

    valid_kwargs = Eagle2ImageProcessorKwargs
    resizer: Literal["pil", "torch"] = "pil"

    def crop_image_to_patches(
        self,
        image: np.ndarray,
        min_patches: int,
        max_patches: int,
        use_thumbnail: bool = True,
        patch_size: Any = None,
        resample: Any = None,
    ) -> list[np.ndarray]:
        """[3, H, W] uint8 -> tiles [3, size, size], row by row, and the thumbnail where there are several."""
        size, (height, width) = patch_size.height, image.shape[-2:]
        columns, rows = best_grid(width, height, size, min_patches, max_patches)
        whole = self.resize(image, SizeDict(height=rows * size, width=columns * size), resample=resample)
        tiles = [
            whole[..., row * size : (row + 1) * size, column * size : (column + 1) * size]
            for row in range(rows)
            for column in range(columns)
        ]
        if use_thumbnail and len(tiles) > 1:
            tiles.append(self.resize(image, patch_size, resample=resample))
        return tiles

    def resize(self, image: np.ndarray, size: Any, resample: Any = None, **other: Any) -> np.ndarray:
        """[3, H, W] uint8 -> [3, size.height, size.width] uint8."""
        if self.resizer == "pil":
            return np.asarray(super().resize(image, size, resample, **other))
        pixels = torch.from_numpy(np.ascontiguousarray(image))[None]
        target = (size.height, size.width)
        resized = torch.nn.functional.interpolate(pixels, target, mode="bicubic", antialias=True)
        return resized[0].numpy()

    def rescale(self, image: np.ndarray, scale: float, **other: Any) -> np.ndarray:
        """'torch' leaves this to `normalize`, in one step."""
        if self.resizer == "pil":
            return np.asarray(super().rescale(image, scale, **other))
        return image.astype(np.float32)

    def normalize(self, image: np.ndarray, mean: Any, std: Any, **other: Any) -> np.ndarray:
        """(pixels - mean) / std by channel; for 'torch' of pixels from 0 to 255."""
        if self.resizer == "pil":
            return np.asarray(super().normalize(image, mean, std, **other))
        mean, std = (np.asarray(value, np.float32)[:, None, None] * np.float32(255) for value in (mean, std))
        return (image - mean) / std

    def get_number_of_image_patches(self, height: int, width: int, images_kwargs: dict[str, Any] | None = None) -> int:
        """Tiles of a picture of this size, the thumbnail among them."""
        options: dict[str, Any] = {
            name: (images_kwargs or {}).get(name, getattr(self, name))
            for name in ("crop_to_patches", "min_patches", "max_patches")
        }
        if not options["crop_to_patches"] or options["max_patches"] <= 1:
            return 1
        size: Any = self.size
        columns, rows = best_grid(width, height, size["height"], options["min_patches"], options["max_patches"])
        return columns * rows + (columns * rows > 1)
