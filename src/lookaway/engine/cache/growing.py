"""The columns that a KV cache holds, with room for those that later tokens add: views in place of copies."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .kept import Kept

__all__ = ["GrowingColumns", "LaterColumns"]

ROOM = 64


class GrowingColumns:
    """What a layer holds of a prompt, and behind it every later column.

    A buffer names the columns in advance and is made anew, at least twice as long, when its room is used up. What is in
    it never changes, so a view of an earlier step stays true.

    Args:
        kept: columns that the layer holds of the first ones, [B, K].
        first: how many columns that is about; the layer holds all from there on.
    """

    def __init__(self, kept: Kept, first: int) -> None:
        self._kept, self._first = kept, first
        self._room, self._all = 0, kept

    def up_to(self, last: int) -> Kept:
        """The columns before `last`, at least `first` of them, that the layer holds: [B, K + last - first]."""
        more = last - self._first
        if more > self._room:
            self._room = max(2 * self._room, more + ROOM)
            index = self._kept.index
            later = torch.arange(self._first, self._first + self._room, device=index.device).expand(len(index), -1)
            valid = torch.ones_like(later, dtype=torch.bool)
            both = torch.cat([index, later], 1), torch.cat([self._kept.valid, valid], 1)
            self._all = Kept(*both, self._kept.full)
        width = self._kept.index.shape[1] + more
        return Kept(self._all.index[:, :width], self._all.valid[:, :width], self._kept.full)


class LaterColumns:
    """What all forwards behind one prompt share.

    Args:
        kept_at: [L], columns that each layer holds of the first ones; None: all.
        first: how many columns that is about.
    """

    def __init__(self, kept_at: Sequence[Kept | None], first: int) -> None:
        self.shortened = frozenset([layer for layer, kept in enumerate(kept_at) if kept is not None])
        """Layers that lack columns."""
        self.full = all(kept is None or kept.full for kept in kept_at)
        """Every slot of every layer is a token."""
        self.masked = True
        """The latest forward met a mask; also where there was none yet."""
        self.firsts: frozenset[int] | None = None
        """The first layer of each kind that lacks columns (`prefill/later_tokens.py`); None: nobody asked yet."""
        one = {id(kept): GrowingColumns(kept, first) for kept in kept_at if kept is not None}
        self._columns = tuple([None if kept is None else one[id(kept)] for kept in kept_at])

    def at(self, layer: int, last: int) -> Kept | None:
        """The columns before `last` that a layer holds, [B, K]; None: all. Layers of one stretch share them."""
        columns = self._columns[layer]
        return None if columns is None else columns.up_to(last)
