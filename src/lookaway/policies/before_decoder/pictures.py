"""The pictures of a batch as one rectangle, and the base of methods that choose picture by picture."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.decision import KEEP, Decision, LayerView
from ...core.layout import TokenLayout
from ..settings_policy import SettingsPolicy, check_positions

__all__ = ["PicturePolicy", "Pictures", "pictures_of"]


@dataclass(frozen=True)
class Pictures:
    """All pictures of a batch: P of them, V slots each, filled up to the longest."""

    rows: Tensor  # int64 [P]
    """Row of the batch that each stands in."""
    slots: Tensor  # int64 [P, V]
    """Slots of its tokens, in order."""
    real: Tensor  # bool [P, V]
    """A visual token stands there; the others fill up, or left before."""
    lengths: tuple[int, ...]
    """Visual tokens of each at first."""
    grids: tuple[tuple[int, int] | None, ...]
    """(rows, columns) of each in raster order, where they are known."""

    def of(self, values: Tensor) -> Tensor:
        """[B, S, ...] -> [P, V, ...]."""
        return values[self.rows[:, None], self.slots]

    def spread(self, values: Tensor, whole: Tensor) -> Tensor:
        """`whole` [B, S, ...] with the pictures' slots set to `values` [P, V, ...]; a copy."""
        spare = whole.shape[1]  # one column more takes what only fills up
        wider = torch.cat([whole, whole[:, :1]], 1)
        wider[self.rows[:, None], torch.where(self.real, self.slots, spare)] = values.to(whole.dtype)
        return wider[:, :spare]


def pictures_of(layout: TokenLayout) -> Pictures | None:
    """The pictures of a layout over whole prompts; None where there is none."""
    found = [(row, span) for row, spans in enumerate(layout.spans) for span in spans]
    if not found:
        return None
    device = layout.visual.device
    lengths = tuple(span.length for _, span in found)
    rows = torch.tensor([row for row, _ in found], device=device)
    starts = torch.tensor([span.start for _, span in found], device=device)
    place = torch.arange(max(lengths), device=device)
    inside = place < torch.tensor(lengths, device=device)[:, None]
    slots = torch.where(inside, starts[:, None] + place, starts[:, None])
    real = inside & layout.visual[rows[:, None], slots]
    return Pictures(rows, slots, real, lengths, tuple(span.grid for _, span in found))


@dataclass(frozen=True, kw_only=True)
class PicturePolicy(SettingsPolicy):
    """Base of methods that choose, and may merge, the tokens of each picture by themselves, before the decoder."""

    positions: str = "original"
    """'original': the tokens that stay keep the positions that they had in the whole prompt. 'renumber': they are
    numbered anew, as in a prompt that never had the others.
    One by one; where the decoder counts time, row and column (Qwen-VL, GLM-4V), each keeps its row and column in its
    picture, and the text behind goes on from the largest that was kept."""

    def __post_init__(self) -> None:
        check_positions(self.positions)

    def renumbers(self) -> bool:
        return self.positions == "renumber"

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        return (0,)

    def decide(self, view: LayerView) -> Decision:
        pictures = pictures_of(view.layout)
        if pictures is None:
            return KEEP
        stays, values = self.choose(view, pictures)
        keep = pictures.spread(stays, torch.ones_like(view.layout.visual))
        return Decision(keep=keep, values=None if values is None else pictures.spread(values, view.hidden))

    @abstractmethod
    def choose(self, view: LayerView, pictures: Pictures) -> tuple[Tensor, Tensor | None]:
        """Which tokens of each picture stay, and with which values.

        Returns:
            `(stays bool [P, V], values [P, V, D])`; None: values stay as they are. What is not real is ignored.
        """
