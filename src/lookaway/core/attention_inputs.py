"""Queries and keys of one attention, and the few rows of its map that somebody needs. Never an S x S map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["AttentionInputs", "attention_rows", "last_text_slot", "text_rows"]


@dataclass(frozen=True)
class AttentionInputs:
    """What the attention of the layer before the view's computed its weights from, over the same S slots as the view.

    H query heads, G KV heads (H is a multiple of G), d numbers a head. Tensors are read-only and not copied.
    """

    queries: Tensor  # [B, H, S, d]
    """Queries with their rotary phase, as the attention used them."""
    keys: Tensor  # [B, G, S, d]
    """Keys with their rotary phase."""
    real: Tensor  # bool [B, S]
    """Slots that this attention saw; the others only pad."""
    scaling: float
    """Factor on the dot products before the softmax."""
    plain: Callable[[], tuple[Tensor, Tensor]]
    """Computes (queries, keys) without their rotary phase. Raises UnsupportedModel where the family rotates in another
    way than the engine knows."""
    mask: Tensor | None = None  # [B or 1, 1 or H, S, S]
    """Who saw whom, where the attention was given that: bool, or 0 where it may and far below 0 where not. None: every
    slot saw itself and the real ones before it."""

    def weights(self, rows: Tensor, rotary: bool = True) -> Tensor:
        """Attention weights of some query slots on all slots.

        Args:
            rows: int64 [B, Q], slots whose queries look.
            rotary: False: as if all slots stood at the same position.

        Returns:
            fp32 [B, H, Q, S]; each row sums to 1 over the slots that it may see.
        """
        queries, keys = (self.queries, self.keys) if rotary else self.plain()
        slots = torch.arange(keys.shape[2], device=keys.device)
        if self.mask is None:
            allowed = ((slots <= rows[:, :, None]) & self.real[:, None, :])[:, None]
        else:
            whole = self.mask.expand(len(rows), -1, -1, -1)
            chosen = whole.gather(2, rows[:, None, :, None].expand(-1, whole.shape[1], -1, whole.shape[3]))
            allowed = chosen if chosen.dtype == torch.bool else chosen >= 0
        allowed = allowed | (slots == rows[:, :, None])[:, None]  # padding sees itself: no NaN
        return attention_rows(queries, keys, rows, allowed, self.scaling)


def attention_rows(queries: Tensor, keys: Tensor, rows: Tensor, allowed: Tensor, scaling: float) -> Tensor:
    """Rows of a softmax attention map.

    Args:
        queries: [B, H, S, d]. keys: [B, G, S, d]. rows: int64 [B, Q], the slots whose queries look.
        allowed: [B, 1 or H, Q, S]: bool (True = may be seen), or numbers that are added to the scores.
        scaling: factor on the dot products.

    Returns:
        Weights, fp32 [B, H, Q, S].
    """
    batch, heads, _, size = queries.shape
    groups = keys.shape[1]
    chosen = queries.gather(2, rows[:, None, :, None].expand(-1, heads, -1, size))
    chosen = chosen.reshape(batch, groups, -1, size)  # the heads that share keys, and their rows, as one
    scores = (chosen @ keys.transpose(2, 3)).float().view(batch, heads, rows.shape[1], -1) * scaling
    scores = scores.masked_fill(~allowed, -torch.inf) if allowed.dtype == torch.bool else scores + allowed
    return scores.softmax(-1)


def text_rows(mask: Tensor, most: int | None = None) -> tuple[Tensor, Tensor]:
    """The slots of a mask bool [B, S] as rows: `(slots int64 [B, T], valid bool [B, T])`, in order, at the right end.

    Args:
        most: T, no less than the slots of any row; None: the largest number of them (one wait for the GPU), at least 1.
    """
    most = max(int(mask.sum(1).max()), 1) if most is None else min(most, mask.shape[1])
    slots = mask.to(torch.uint8).argsort(dim=1, stable=True)[:, mask.shape[1] - most :]
    return slots, mask.gather(1, slots)


def last_text_slot(text: Tensor) -> Tensor:
    """The last slot of each row of a mask bool [B, S], int64 [B]; the last of all where a row has none."""
    slots = torch.arange(text.shape[1], device=text.device)
    return torch.where(text.any(1), (slots * text).amax(1), text.shape[1] - 1)
