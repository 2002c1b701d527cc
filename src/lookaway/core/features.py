"""The state of the text tokens as one vector a row: the input of exit gates (DyVTE, arXiv 2411.19628, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from .layout import TokenLayout

__all__ = ["text_features"]


def text_features(hidden: Tensor, layout: TokenLayout) -> Tensor:
    """`[mean of the question's tokens but the last, last text token]` of each row, in fp32.

    Args:
        hidden: residual stream entering a layer, [B, S, D].
        layout: layout over the same positions. Text that is no part of the prompt (teacher-forced answers) must be
            marked as padding.

    Returns:
        [B, 2D]. A question of one token is its own mean; rows without an image count all their text as question; a row
        without any text gives its last position.
    """
    slots, weights = layout.question_slots
    if len(slots) == 1:
        states = hidden.index_select(1, slots[0]).float()  # [1, Q + 1, D]
    else:
        rows = torch.arange(len(slots), device=slots.device)[:, None]
        # masked_fill, not the weights alone: slots that fill up may be padding, which may hold NaN
        unused = torch.nn.functional.pad(weights == 0, (0, 1))
        states = hidden[rows, slots].float().masked_fill(unused[:, :, None], 0.0)
    mean = torch.bmm(weights[:, None], states[:, :-1])[:, 0]  # [B, D]
    return torch.cat([mean, states[:, -1]], dim=1)
