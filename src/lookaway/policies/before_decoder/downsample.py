"""Downsampling: the visual tokens of each cell of the grid become one, their mean. The baseline of VTC-Bench."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.decision import LayerView
from ...core.errors import SettingsError
from ...core.registry import register
from .pictures import PicturePolicy, Pictures

__all__ = ["Downsample", "cell_count", "cells_of"]


@register("downsample")
@dataclass(frozen=True)
class Downsample(PicturePolicy):
    """Before the decoder, each cell of the picture's grid becomes one token, the mean of its tokens (downsampling).

    VTC-Bench (arXiv 2510.07143) finds that plain downsampling beats many methods; it shrinks the picture itself, which
    saves the vision tower's time too where the number of visual tokens follows from the picture's size.
    """

    factor: int = 2
    """Rows and columns of a cell: 2 keeps a quarter of the tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.factor, bool) or not isinstance(self.factor, int) or self.factor < 1:
            raise SettingsError(f"Downsample's factor is a whole number from 1 on (1 keeps all), not {self.factor!r}.")

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        return () if self.factor == 1 else (0,)

    def choose(self, view: LayerView, pictures: Pictures) -> tuple[Tensor, Tensor | None]:
        device = view.hidden.device
        width = pictures.slots.shape[1]
        cells = torch.zeros(len(pictures.lengths), width, dtype=torch.int64)
        middle = torch.zeros(len(pictures.lengths), width, dtype=torch.bool)
        for i, (grid, length) in enumerate(zip(pictures.grids, pictures.lengths, strict=True)):
            if grid is None:
                raise SettingsError(
                    "Downsample needs the rows and columns of each picture's visual tokens, which this family does not "
                    "give. Use la.UniformKeep(keep, layer=0), or hand in smaller pictures."
                )
            cells[i, :length], middle[i, :length] = cells_of(grid, self.factor)
        most = max(cell_count(grid, self.factor) for grid in pictures.grids if grid)
        cells, middle = cells.to(device), middle.to(device)
        share = (cells[:, :, None] == torch.arange(most, device=device)) & pictures.real[:, :, None]
        share = share.to(view.hidden.dtype)
        means = (share / share.sum(1, keepdim=True).clamp(min=1)).transpose(1, 2) @ pictures.of(view.hidden)
        return middle & pictures.real, means.gather(1, cells[:, :, None].expand(-1, -1, means.shape[2]))


def cell_count(grid: tuple[int, int], factor: int) -> int:
    """How many cells a grid (rows, columns) of visual tokens has, smaller ones at its edges counted."""
    return -(-grid[0] // factor) * -(-grid[1] // factor)


def cells_of(grid: tuple[int, int], factor: int) -> tuple[Tensor, Tensor]:
    """The cell of each token of a grid, and which token stands in the middle of its cell.

    Args:
        grid: (rows, columns); cells at the right and lower edge may be smaller.
        factor: rows and columns of a cell.

    Returns:
        `(cell int64 [V], middle bool [V])` in raster order. Of an even number of rows the later middle one counts.
    """
    rows, columns = (torch.arange(size) for size in grid)
    across = -(-grid[1] // factor)
    cell = (rows // factor)[:, None] * across + columns // factor
    return cell.flatten(), (_middle(grid[0], factor)[:, None] & _middle(grid[1], factor)).flatten()


def _middle(size: int, factor: int) -> Tensor:
    starts = torch.arange(0, size, factor)
    chosen = torch.zeros(size, dtype=torch.bool)
    chosen[starts + (size - starts).clamp(max=factor) // 2] = True
    return chosen
