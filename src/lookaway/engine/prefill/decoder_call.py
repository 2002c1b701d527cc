"""What one decoder layer is called with, narrowed to the columns that are left.

The only file that knows the keyword names of decoder layers. transformers builds masks and rotary embeddings once a
forward, at full length, and hands the same objects to all layers; from the layer of the first removal on, each layer
gets the rows and columns of them that it needs. A mask is never cut to fit: a length that is not the expected one is an
error. Sliding windows are decided by the original columns: what the mask says of a column stays true of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.errors import UnsupportedModel

__all__ = ["Kept", "LayerCall", "gather_rows", "window_of"]


@dataclass(frozen=True, eq=False)
class Kept:
    """Which columns of the original prompt are left, in order. Slots that are not valid only pad."""

    index: Tensor  # int64 [B, K]
    valid: Tensor  # bool [B, K]
    full: bool
    """Every slot is valid (known on the host, so that the fast path needs no mask)."""
    batch: Tensor | None = None
    """Rows of the batch that these are, int64 [B]; None: all of them."""

    def part(self, rows: Tensor, slots: slice, full: bool) -> Kept:
        """Some rows, and of these the columns in `slots`: a group that runs apart."""
        return Kept(self.index[rows, slots], self.valid[rows, slots], full, rows)

    def followed_by(self, first: int, last: int) -> Kept:
        """These columns and behind them all from `first` up to `last`."""
        more = torch.arange(first, last, device=self.index.device).expand(len(self.index), -1)
        valid = torch.ones_like(more, dtype=torch.bool)
        return Kept(torch.cat([self.index, more], 1), torch.cat([self.valid, valid], 1), self.full)

    def select(self, index: Tensor, valid: Tensor, full: bool) -> Kept:
        """Keep the slots `index` [B, K'] of these; a slot is valid where both say so."""
        return Kept(self.index.gather(1, index), self.valid.gather(1, index) & valid, full)

    def rows(self, rows: Tensor) -> Kept:
        """Other rows of the batch, int64 [B'], for beams."""
        rows = rows.to(self.index.device)
        return Kept(self.index[rows], self.valid[rows], self.full)


@dataclass
class LayerCall:
    """The arguments of one call of one decoder layer."""

    layer: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    attention: str
    """Name of the attention implementation."""
    memo: dict[tuple[int, ...], tuple[Any, ...]]
    """What was narrowed already in this forward: layers of one kind share their masks and rotary embeddings."""

    @property
    def hidden(self) -> Tensor:  # [B, S, D]
        return self.args[0] if self.args else self.kwargs["hidden_states"]

    @property
    def cache(self) -> Any:
        return self.kwargs.get("past_key_values")

    @property
    def mark(self) -> Any:
        """An object that all calls of one forward share for layers of one kind, and no other forward."""
        return self.kwargs.get("position_embeddings")

    def replaced(self, hidden: Tensor | None, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) with other hidden rows and keyword arguments, as a forward pre-hook returns them."""
        merged = {**self.kwargs, **kwargs}
        if hidden is None:
            return self.args, merged
        if self.args:
            return (hidden, *self.args[1:]), merged
        return self.args, {**merged, "hidden_states": hidden}

    def narrowed(
        self, hidden: Tensor | None, new: Kept | None, past: Kept | None, before: int, length: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call on what is left of `length` new columns, behind a cache that stands for `before` columns.

        Args:
            hidden: rows of the kept new columns, [B, K, D]; None: as they are in the call.
            new: the new columns that are left; None: all, so that only the mask changes.
            past: the columns that this layer's cache holds; None: all.
        """
        mask = self.kwargs.get("attention_mask")
        key = (id(new), id(past), id(mask), id(self.kwargs.get("position_embeddings")))
        if key not in self.memo:  # layers share masks and rotary embeddings, so what was narrowed once serves them all
            changed = {"attention_mask": self._mask(new, past, before, length), **self._places(new)}
            held = (new, past, mask, self.kwargs.get("position_embeddings"))
            self.memo[key] = (changed, held)  # holding them keeps their ids from being used again
        return self.replaced(hidden, **self.memo[key][0])

    def _places(self, new: Kept | None) -> dict[str, Any]:
        """Rotary embeddings and position ids of the kept columns."""
        if new is None:
            return {}
        cos_sin = self.kwargs.get("position_embeddings")
        if not isinstance(cos_sin, tuple):
            raise UnsupportedModel(
                f"Decoder layer {self.layer} gets rotary embeddings as {type(cos_sin).__name__}, not as (cos, sin). "
                "Removal on such a decoder is not supported yet."
            )
        positions = self.kwargs.get("position_ids")
        # Flash attention takes jumps in position_ids for packed sequences; rotary embeddings are what counts here.
        flash = "flash" in self.attention
        return {
            "position_embeddings": tuple(_phases(part, new) for part in cos_sin),
            "position_ids": None if positions is None or flash else _last_dimension(positions, new),
        }

    # masks -----------------------------------------------------------------------------------------------------------

    def _mask(self, new: Kept | None, past: Kept | None, before: int, length: int) -> Tensor | None:
        mask = self.kwargs.get("attention_mask")
        some = new or past
        assert some is not None
        if mask is None:
            full = (new is None or new.full) and (past is None or past.full)
            return None if full else self._own_mask(new, past, before, length)
        if not isinstance(mask, Tensor) or mask.dim() not in (2, 4):
            raise self._no_such_mask(mask)
        index, valid = keys(new, past, before, length)
        total, window = before + length, window_of(self.cache, self.layer)
        if window is not None:
            # transformers' mask starts where the window of the first new token does; the cache holds the last stored.
            first = max(total - length - window + 1, 0)
            held = window - 1 + (length if new is None else new.index.shape[1])
            index, valid, total = index[:, -held:] - first, valid[:, -held:], total - first
            index, valid = index.clamp(min=0), valid & (index >= 0)
        self._check_length(mask.shape[-1], total)
        mask = _of_rows(mask, some)
        if mask.dim() == 2:
            return mask.gather(1, index.to(mask.device)) & valid.to(mask.device)
        self._check_length(mask.shape[2], length)
        mask = mask.expand(len(index), -1, -1, -1)
        if new is not None:
            rows = new.index.to(mask.device)
            mask = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
        mask = _columns(mask, index)
        if window is None and (new is None or new.full) and (past is None or past.full):
            return mask
        return _without(mask, ~valid.to(mask.device), new is not None)

    def _own_mask(self, new: Kept | None, past: Kept | None, before: int, length: int) -> Tensor:
        """A causal mask where transformers gave none although some slots now only pad."""
        index, valid = keys(new, past, before, length)
        if "flash" in self.attention:
            return valid
        if self.attention != "sdpa":
            raise UnsupportedModel(
                f"transformers built no mask for attention {self.attention!r}, and rows of this batch keep different "
                "numbers of tokens. Load the model with attn_implementation='sdpa' or 'eager'."
            )
        queries = length if new is None else new.index.shape[1]
        slots = torch.arange(index.shape[1], device=index.device)
        causal = (slots <= slots[-queries:, None]).expand(len(index), 1, -1, -1)  # [B, 1, queries, keys]
        return _without(causal, ~valid, new is not None)

    def _check_length(self, found: int, expected: int) -> None:
        if found != expected:
            raise UnsupportedModel(
                f"Decoder layer {self.layer} got an attention mask over {found} positions where {expected} were "
                "expected; lookaway does not cut masks to fit. Static and chunked caches are not supported "
                "together with removal: use the default dynamic cache."
            )

    def _no_such_mask(self, mask: Any) -> UnsupportedModel:
        form = f"shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        return UnsupportedModel(
            f"Attention {self.attention!r} masks with {form}, which cannot be narrowed to the kept tokens. "
            "Load the model with attn_implementation='sdpa' or 'eager'."
        )


def keys(new: Kept | None, past: Kept | None, before: int, length: int) -> tuple[Tensor, Tensor]:
    """Columns that a layer's keys stand for, cache and new ones: `(index int64 [B, N], valid bool [B, N])`."""
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


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows `index` int64 [B, K] of `values` [B or 1, S, D]: [B, K, D]."""
    index = index.to(values.device)
    if len(index) == 1:
        return values.index_select(1, index[0])
    values = values.expand(len(index), -1, -1)
    return values[torch.arange(len(index), device=index.device)[:, None], index]


def _phases(part: Tensor, kept: Kept) -> Tensor:
    """Cosines or sines [B or 1, S, d] of the kept columns; [3, B or 1, S, d] where a decoder mixes its three kinds of
    positions in the attention itself (Qwen2-VL before transformers 5.17)."""
    if part.dim() == 4:
        return torch.stack([_phases(one, kept) for one in part])
    return gather_rows(_of_rows(part, kept), kept.index)


def _of_rows(values: Tensor, kept: Kept) -> Tensor:
    """The rows of `values` [B or 1, ...] that `kept` is about."""
    if kept.batch is None or len(values) == 1:
        return values
    return values[kept.batch.to(values.device)]


def _last_dimension(positions: Tensor, kept: Kept) -> Tensor:
    """position_ids [..., B or 1, S] -> [..., B, K]."""
    index = kept.index.to(positions.device)
    lead = positions.shape[:-2]
    if kept.batch is not None and positions.shape[-2] > 1:
        positions = positions.index_select(-2, kept.batch.to(positions.device))
    return positions.expand(*lead, len(index), -1).gather(-1, index.expand(*lead, -1, -1))


def _columns(mask: Tensor, columns: Tensor) -> Tensor:
    """Columns int64 [B, N] of a mask [B, H, Q, S]."""
    columns = columns.to(mask.device)
    return mask.gather(3, columns[:, None, None, :].expand(-1, mask.shape[1], mask.shape[2], -1))


def _without(mask: Tensor, padding: Tensor, queries_pad: bool) -> Tensor:
    """The mask [B, H, Q, N] with the keys `padding` bool [B, N] closed; queries that pad see themselves: no NaN."""
    closed = padding[:, None, None, :]
    boolean = mask.dtype == torch.bool
    mask = mask & ~closed if boolean else mask.masked_fill(closed, torch.finfo(mask.dtype).min)
    if not queries_pad:
        return mask
    count, total = mask.shape[2], mask.shape[3]
    itself = torch.zeros_like(padding)[:, None, :].expand(-1, count, -1).clone()  # [B, Q, N]
    itself[:, :, total - count :] = torch.diag_embed(padding[:, total - count :])
    return mask | itself[:, None] if boolean else mask.masked_fill(itself[:, None], 0.0)
