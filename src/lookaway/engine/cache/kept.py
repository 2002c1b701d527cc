"""Which columns of a prompt are left: what a layer runs on, and what its KV cache holds afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Kept", "key_columns", "window_of"]


@dataclass(frozen=True, eq=False)
class Kept:
    """Which columns of the original prompt are left, in order. Slots that are not valid only pad."""

    index: Tensor  # int64 [B, K]
    valid: Tensor  # bool [B, K]
    full: bool
    """Every slot is valid (known on the host, so that the fast path needs no mask)."""
    batch: Tensor | None = None
    """Rows of the batch that these are, int64 [B]; None: all of them."""
    places: Tensor | None = None  # int64 [B, K]
    """Columns whose positions these slots have; None: their own."""

    @property
    def positions_of(self) -> Tensor:
        """Columns whose positions the slots have, int64 [B, K]."""
        return self.index if self.places is None else self.places

    def part(self, rows: Tensor, slots: slice, full: bool) -> Kept:
        """Some rows, and of these the columns in `slots`: a group that runs apart."""
        places = None if self.places is None else self.places[rows, slots]
        return Kept(self.index[rows, slots], self.valid[rows, slots], full, rows, places)

    def select(self, index: Tensor, valid: Tensor, full: bool) -> Kept:
        """Keep the slots `index` [B, K'] of these; a slot is valid where both say so."""
        places = None if self.places is None else self.places.gather(1, index)
        return Kept(self.index.gather(1, index), self.valid.gather(1, index) & valid, full, self.batch, places)

    def rows(self, rows: Tensor) -> Kept:
        """Other rows of the batch, int64 [B'], for beams."""
        rows = rows.to(self.index.device)
        return Kept(self.index[rows], self.valid[rows], self.full)


def key_columns(new: Kept | None, past: Kept | None, before: int, length: int) -> tuple[Tensor, Tensor]:
    """Columns that a layer's keys stand for, cache and new ones: `(index int64 [B, N], valid bool [B, N])`.

    Args:
        new: columns left of `length` new ones; None: all.
        past: columns that the cache holds of the `before` earlier ones; None: all.
    """
    some = new or past
    assert some is not None
    rows, device = len(some.index), some.index.device

    def every(first: int, count: int) -> tuple[Tensor, Tensor]:
        columns = torch.arange(first, first + count, device=device).expand(rows, -1)
        return columns, torch.ones_like(columns, dtype=torch.bool)

    old = (past.index, past.valid) if past is not None else every(0, before)
    now = (before + new.index, new.valid) if new is not None else every(before, length)
    return torch.cat([old[0], now[0]], 1), torch.cat([old[1], now[1]], 1)


def window_of(cache: Any, layer: int) -> int | None:
    """How many columns back, its own included, a token of a sliding-window layer sees; None: all."""
    part: Any = cache.layers[layer] if layer < len(getattr(cache, "layers", ())) else None
    return part.sliding_window if getattr(part, "is_sliding", False) else None
