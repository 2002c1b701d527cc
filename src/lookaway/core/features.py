"""The state of the text tokens as one vector a row: the input of exit gates (DyVTE, arXiv 2411.19628, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from .attended import last_text_slot
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
    text = layout.text
    slots = torch.arange(text.shape[1], device=text.device)
    last = last_text_slot(text)  # [B]
    is_last = slots == last[:, None]  # [B, S]
    question = layout.question_mask() & ~is_last
    question = torch.where(question.any(1, keepdim=True), question, is_last)
    # masked_fill, not a product: padding may hold NaN
    states = hidden.float().masked_fill(~question[:, :, None], 0.0)
    mean = states.sum(1) / question.sum(1, keepdim=True)
    rows = torch.arange(len(last), device=last.device)
    return torch.cat([mean, hidden[rows, last].float()], dim=1)
