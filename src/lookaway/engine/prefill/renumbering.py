"""New positions for what enters the decoder, as in a prompt that never had the tokens that left.

A decoder that counts its tokens one by one: 0, 1, 2, ... Rotary embeddings are those of another column: the j-th token
that stays takes the phase of the j-th token of the whole prompt.

A decoder that counts time, row and column (Qwen-VL, GLM-4V): a visual token keeps its place in its picture, and what
follows the picture goes on one behind the largest row or column that was kept, or where the picture began if nothing
was. Its rotary embeddings are made again.

All that comes later, in decoding and in further turns, is moved back by as many places as the row's last token was; the
KV cache says by how many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...anatomy.base import Anatomy
from ...core.decision import Policy
from ...core.errors import UnsupportedModel
from ...core.layout import TokenLayout

__all__ = ["GridPositions", "NewNumbers", "check_renumbering", "moved_back", "new_grid_positions", "number_one_by_one"]

KEEP = "Use positions='original'."


def check_renumbering(anatomy: Anatomy, policy: Policy) -> None:
    """Refuse a policy that numbers anew on a decoder of which it is not known how it counts.

    Raises:
        UnsupportedModel: nobody has said how this family counts, or sliding windows count places in the whole prompt.
    """
    if not policy.renumbers():
        return
    if anatomy.only_before:
        raise UnsupportedModel(
            f"{anatomy.base.architecture} gets a shorter prompt in front of its decoder, at the original positions; "
            f"numbering anew is not supported on it. {KEEP}"
        )
    if anatomy.first_position is None and anatomy.grid_rotary is None:
        raise UnsupportedModel(
            f"lookaway knows {anatomy.base.architecture} by the common pattern alone, which does not say how it counts "
            f"its positions, so it cannot number them anew. {KEEP}"
        )
    if anatomy.has_windows:
        raise UnsupportedModel(
            "This decoder has sliding-window layers, and lookaway lets their windows count places in the whole prompt, "
            f"which is not what new positions would mean. {KEEP}"
        )


@dataclass(frozen=True, eq=False)
class NewNumbers:
    """What tokens that stay are numbered by."""

    shift: Tensor  # int64 [B]
    """Places by which all that comes after this prompt is moved back."""
    places: Tensor | None = None  # int64 [B, K]
    """Columns of the whole prompt whose positions the kept slots take; None: their own."""
    rotary: tuple[Tensor, ...] | None = None
    """Cosines and sines of the whole prompt's columns at their new positions; None: those that the layers get."""


def number_one_by_one(layout: TokenLayout, valid: Tensor, kwargs: Mapping[str, Any]) -> NewNumbers:
    """The j-th token that stays is numbered as the j-th of the whole prompt.

    Args:
        layout: of the whole prompt, [B, S].
        valid: bool [B, K], slots that are tokens, in order; what only fills up keeps some column.
        kwargs: of a decoder layer's call, at full length.

    Raises:
        UnsupportedModel: the prompt's positions are not one more from token to token: then no column has the new ones.
    """
    _check_consecutive(kwargs, layout)
    columns = layout.padding.to(torch.uint8).argsort(dim=1, stable=True)  # a row's own first, in order
    rank = (valid.cumsum(1) - 1).clamp(min=0)
    return NewNumbers(layout.counts - valid.sum(1), columns.gather(1, rank.to(columns.device)))


def _check_consecutive(kwargs: Mapping[str, Any], layout: TokenLayout) -> None:
    positions = kwargs.get("position_ids")
    if not isinstance(positions, Tensor):
        return
    real = ~layout.padding.to(positions.device)
    if positions.dim() == 2 and positions.shape[-1] == real.shape[1]:
        steps = positions.expand(len(real), -1).diff(dim=1)
        if bool(((steps == 1) | ~(real[:, 1:] & real[:, :-1])).all()):
            return
    raise UnsupportedModel(
        "Tokens can be numbered anew only where the prompt's position_ids count them one by one. Leave position_ids to "
        "the model, or use positions='original'."
    )


@dataclass(frozen=True, eq=False)
class GridPositions:
    """The positions of a prompt in time, row and column, and what makes rotary embeddings of such."""

    positions: Tensor  # int64 [3, B or 1, S]
    make_rotary: Callable[[Tensor, Tensor], tuple[Tensor, ...]]
    """States [B, S, D] (for device and dtype) and positions [3, B, S] -> cosines and sines."""

    @classmethod
    def taken_from(cls, kwargs: Mapping[str, Any], make_rotary: Callable[..., Any]) -> GridPositions:
        """Those in a decoder's keyword arguments.

        Raises:
            UnsupportedModel: the decoder is given no such positions and counts one by one.
        """
        positions = kwargs.get("position_ids")
        if not isinstance(positions, Tensor) or positions.dim() != 3 or len(positions) not in (3, 4):
            found = tuple(positions.shape) if isinstance(positions, Tensor) else "none"
            raise UnsupportedModel(
                "Tokens can be numbered anew only where the decoder is given their time, row and column, [3, B, S]; "
                f"its position_ids are {found}. Give the model input_ids with all that its processor returns "
                f"(mm_token_type_ids, image_grid_thw), or positions of model.get_rope_index. {KEEP}"
            )
        return cls(positions[-3:], make_rotary)  # in front of the three, `generate` gives plain ones for masks

    def numbered(self, layout: TokenLayout, index: Tensor, valid: Tensor, hidden: Tensor) -> NewNumbers:
        """The numbers of what stays.

        Args:
            layout: of the whole prompt, [B, S].
            index: int64 [B, K], columns that stay; slots where `valid` bool [B, K] is False only fill up.
            hidden: [B, S, D], states that enter the decoder.

        Raises:
            UnsupportedModel: these are no positions of texts and pictures in a row.
        """
        device = self.positions.device
        real, text = ~layout.padding.to(device), layout.text.to(device)
        kept = torch.zeros_like(real).scatter_(1, index.to(device), valid.to(device))  # a column fills up or stays
        positions = self.positions.expand(-1, len(real), -1)
        begins = _begins(positions, real)
        plain = (positions[0] == positions[1]) & (positions[1] == positions[2])  # else it is the end of a picture
        if bool((text & plain & ~begins).any()):
            raise UnsupportedModel(
                "Tokens can be numbered anew only where each text stands behind all rows and columns of the pictures "
                f"in front of it, and these position_ids are otherwise. Leave position_ids to the model. {KEEP}"
            )
        new, shift = new_grid_positions(positions, real, kept)
        return NewNumbers(shift.to(index.device), rotary=self.make_rotary(hidden, new.to(hidden.device)))


def _begins(positions: Tensor, real: Tensor) -> Tensor:
    """Where a text token or a picture begins, bool [B, S]: row and column are behind all rows and columns before."""
    low, high = positions[1:].amin(0), positions[1:].amax(0).masked_fill(~real, -1)
    before = torch.nn.functional.pad(high[:, :-1], (1, 0), value=-1).cummax(1).values
    return real & (low > before)


def new_grid_positions(positions: Tensor, real: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Positions in time, row and column once some visual tokens are gone, picture by picture.

    A picture keeps its inner positions. What follows is moved back by as many places as its largest row or column lost;
    by its whole size, where nothing of it is kept. Time does not count, as it does not in transformers: the text behind
    a video stands behind its rows and columns. Where a model counts a picture's tokens one by one, each is a picture of
    its own. The same as OpenVINO GenAI does for pictures; for videos it counts time too.

    Args:
        positions: int64 [3, B, S], of the whole prompt.
        real: bool [B, S], columns that are no padding.
        kept: bool [B, S], of these the ones that stay.

    Returns:
        (new positions int64 [3, B, S], of which those of columns that stay have a meaning; the number of places by
        which a row's last column was moved back, int64 [B]).
    """
    piece = (_begins(positions, real).cumsum(1) - 1).clamp(min=0)  # a text token or a picture
    high, low = positions[1:].amax(0), positions[1:].amin(0)

    def largest(values: Tensor, of: Tensor) -> Tensor:
        """Over the columns `of` of each piece; -1 where it has none."""
        values = values.masked_fill(~of, -1)
        return torch.full_like(values, -1).scatter_reduce(1, piece, values, "amax")

    last = high.amax() + 1
    start = last - 1 - largest(last - 1 - low, real)  # the smallest; `last` where there is no such piece
    left = torch.maximum(largest(high, kept), start - 1)
    lost = torch.where(start < last, largest(high, real) - left, 0)
    back = (lost.cumsum(1) - lost).gather(1, piece).masked_fill(~real, 0)
    return positions - back, lost.sum(1)


def moved_back(kwargs: dict[str, Any], shift: Tensor) -> dict[str, Any]:
    """A decoder's keyword arguments with the positions of its new tokens moved back by `shift` int64 [B].

    The first of four channels [4, B, T] stays: transformers makes masks by it, and counts what it was given.
    """
    positions = kwargs.get("position_ids")
    if positions is None:
        tokens = kwargs.get("inputs_embeds")
        tokens = kwargs["input_ids"] if tokens is None else tokens
        first = kwargs["past_key_values"].get_seq_length()
        positions = torch.arange(first, first + tokens.shape[1], device=tokens.device)[None]
    moved = positions - shift.to(positions.device)[:, None]
    if positions.dim() == 3 and len(positions) == 4:
        moved = torch.cat([positions[:1].expand(-1, moved.shape[1], -1), moved[1:]])
    return {**kwargs, "position_ids": moved}
