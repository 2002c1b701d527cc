"""New positions for what enters the decoder: 0, 1, 2, ... as in a prompt that never had the tokens that left.

Rotary embeddings are those of another column: the j-th token that stays takes the phase of the j-th token of the whole
prompt. All that comes later, in decoding and in further turns, is moved back by as many places as a row lost; the KV
cache says by how many.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...anatomy.base import Anatomy
from ...core.decision import Policy
from ...core.errors import UnsupportedModel
from ...core.layout import TokenLayout

__all__ = ["check_consecutive", "check_renumbering", "moved_back", "new_places"]


def check_renumbering(anatomy: Anatomy, policy: Policy) -> None:
    """Refuse a policy that numbers anew on a decoder that does not count its tokens one by one.

    Raises:
        UnsupportedModel: positions have several dimensions, or sliding windows are counted in places of the prompt.
    """
    if not policy.renumbers():
        return
    keep = "Use positions='original'."
    if anatomy.only_before:
        raise UnsupportedModel(
            f"{anatomy.base.architecture} gets a shorter prompt in front of its decoder, at the original positions; "
            f"numbering anew is not supported on it. {keep}"
        )
    if anatomy.first_position is None:
        raise UnsupportedModel(
            f"{anatomy.base.architecture} counts positions in several dimensions: those of visual tokens are places in "
            "the picture, and the text behind it goes on from the picture's size, however many tokens stay. lookaway "
            f"keeps these, as vLLM does, and has no other numbering for them. {keep}"
        )
    if anatomy.has_windows:
        raise UnsupportedModel(
            "This decoder has sliding-window layers, and lookaway lets their windows count places in the whole prompt, "
            f"which is not what new positions would mean. {keep}"
        )


def new_places(layout: TokenLayout, valid: Tensor) -> Tensor:
    """For slots that stay, the column of the whole prompt whose position they take, int64 [B, K].

    Args:
        layout: of the whole prompt, [B, S].
        valid: bool [B, K], slots that are tokens, in order; what only fills up keeps some column.
    """
    columns = layout.padding.to(torch.uint8).argsort(dim=1, stable=True)  # a row's own first, in order
    rank = (valid.cumsum(1) - 1).clamp(min=0)
    return columns.gather(1, rank.to(columns.device))


def check_consecutive(kwargs: Mapping[str, Any], layout: TokenLayout) -> None:
    """Refuse positions of a prompt that are not one more from token to token: then no column has the new ones.

    Args:
        kwargs: of a decoder layer's call, at full length.
    """
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


def moved_back(kwargs: dict[str, Any], shift: Tensor) -> dict[str, Any]:
    """A decoder's keyword arguments with the positions of its new tokens moved back by `shift` int64 [B]."""
    positions = kwargs.get("position_ids")
    if positions is None:
        tokens = kwargs.get("inputs_embeds")
        tokens = kwargs["input_ids"] if tokens is None else tokens
        first = kwargs["past_key_values"].get_seq_length()
        positions = torch.arange(first, first + tokens.shape[1], device=tokens.device)[None]
    return {**kwargs, "position_ids": positions - shift.to(positions.device)[:, None]}
