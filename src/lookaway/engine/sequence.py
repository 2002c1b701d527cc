"""What one decoder layer is called with, narrowed to the columns that are left.

The only file that knows the keyword names of decoder layers. transformers builds masks and rotary embeddings once a
forward, at full length, and hands the same objects to all layers; from the layer of the first removal on, each layer
gets the rows and columns of them that it needs. A mask is never cut to fit: a length that is not the expected one is an
error. Sliding windows are decided by the original columns: what the mask says of a column stays true of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UnsupportedModel

__all__ = ["Kept", "LayerCall", "gather_rows", "window_of"]


@dataclass(frozen=True, eq=False)
class Kept:
    """Which columns of the original prompt are left, in order. Slots that are not valid only pad."""

    index: Tensor  # int64 [B, K]
    valid: Tensor  # bool [B, K]
    full: bool
    """Every slot is valid (known on the host, so that the fast path needs no mask)."""

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

    # prefill: the layer sees the kept rows of the prompt and nothing else -------------------------------------------

    def narrowed(self, hidden: Tensor, kept: Kept, length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call on the kept columns of a prompt of `length` columns; `hidden` [B, K, D] is narrowed already."""
        mask, cos_sin, positions = self._once(kept, self._narrow, length)
        return self.replaced(hidden, attention_mask=mask, position_embeddings=cos_sin, position_ids=positions)

    def _narrow(self, kept: Kept, length: int) -> tuple[Any, ...]:
        flash = "flash" in self.attention
        mask = self.kwargs.get("attention_mask")
        if mask is None:
            narrow_mask = self._own_mask(kept, 0) if not kept.full else None
        elif not isinstance(mask, Tensor) or mask.dim() not in (2, 4):
            raise self._no_such_mask(mask)
        elif mask.dim() == 2:
            self._check_length(mask.shape[1], length)
            narrow_mask = mask.gather(1, kept.index) & kept.valid
        else:
            self._check_length(mask.shape[2], length)
            self._check_length(mask.shape[3], length)
            narrow_mask = _square(mask, kept)
        cos_sin = self.kwargs.get("position_embeddings")
        if not isinstance(cos_sin, tuple):
            raise UnsupportedModel(
                f"Decoder layer {self.layer} gets rotary embeddings as {type(cos_sin).__name__}, not as (cos, sin). "
                "Removal on such a decoder is not supported yet."
            )
        positions = self.kwargs.get("position_ids")
        # Flash attention takes jumps in position_ids for packed sequences; rotary embeddings are what counts here.
        narrow_positions = None if positions is None or flash else _last_dimension(positions, kept.index)
        return narrow_mask, tuple(gather_rows(part, kept.index) for part in cos_sin), narrow_positions

    # decoding: new tokens, a cache whose prompt part is narrowed already ---------------------------------------------

    def narrowed_keys(self, kept: Kept, length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call on new tokens behind a prompt of `length` columns of which this layer's cache holds the kept."""
        (mask,) = self._once(kept, self._narrow_keys, length)
        return self.replaced(None, attention_mask=mask)

    def _narrow_keys(self, kept: Kept, length: int) -> tuple[Any, ...]:
        new = self.hidden.shape[1]
        later = self.cache.get_seq_length(self.layer) - kept.index.shape[1] + new  # columns after the prompt
        mask = self.kwargs.get("attention_mask")
        if later < new:
            raise UnsupportedModel(
                f"The cache of layer {self.layer} was cropped into the prompt: it holds "
                f"{later - new + kept.index.shape[1]} columns, the pruned prompt {kept.index.shape[1]}. Run it again."
            )
        if mask is None:
            return (None if kept.full else self._own_mask(kept, later),)
        if not isinstance(mask, Tensor) or mask.dim() not in (2, 4):
            raise self._no_such_mask(mask)
        tail = torch.arange(length, length + later, device=kept.index.device).expand(len(kept.index), -1)
        columns = torch.cat([kept.index, tail], dim=1)  # [B, K + later]
        valid = torch.cat([kept.valid, torch.ones_like(tail, dtype=torch.bool)], dim=1)
        total, window = length + later, window_of(self.cache, self.layer)
        if window is not None:
            # The mask starts where the window of the first new token does; the cache holds the last that came.
            first = max(total - new - window + 1, 0)
            self._check_length(mask.shape[-1], total - first)
            held = min(columns.shape[1], window - 1 + new)
            columns, valid = columns[:, -held:] - first, valid[:, -held:]
            return (_forbid(_columns(mask, columns.clamp(min=0)), ~(valid & (columns >= 0))[:, None, None, :]),)
        self._check_length(mask.shape[-1], total)
        if mask.dim() == 2:
            return (mask.gather(1, columns) & valid,)
        return (_forbid(_columns(mask, columns), ~valid[:, None, None, :]),)

    # masks -----------------------------------------------------------------------------------------------------------

    def _own_mask(self, kept: Kept, later: int) -> Tensor:
        """A causal mask where transformers gave none although some slots now only pad."""
        slots = kept.valid.shape[1]
        queries = self.hidden.shape[1] if later else slots
        valid = torch.nn.functional.pad(kept.valid, (0, later), value=True)  # [B, K + later]
        if "flash" in self.attention:
            return valid
        keys = torch.arange(slots + later, device=valid.device)
        causal = keys <= keys[-queries:, None]  # [Q, K + later]
        allowed = causal & valid[:, None, None, :]
        if not later:
            allowed = allowed | torch.eye(slots, dtype=torch.bool, device=valid.device)  # padding sees itself: no NaN
        if self.attention in ("sdpa", "lookaway_sdpa"):
            return allowed
        raise UnsupportedModel(
            f"transformers built no mask for attention {self.attention!r}, and rows of this batch keep different "
            "numbers of tokens. Load the model with attn_implementation='sdpa' or 'eager'."
        )

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

    def _once(self, kept: Kept, make: Callable[[Kept, int], tuple[Any, ...]], length: int) -> tuple[Any, ...]:
        given = self.kwargs.get("attention_mask"), self.kwargs.get("position_embeddings")
        key = (id(kept), *map(id, given))
        if key not in self.memo:
            self.memo[key] = (*make(kept, length), given)  # holding `given` keeps its ids from being used again
        return self.memo[key][:-1]


def window_of(cache: Any, layer: int) -> int | None:
    """How many columns back, its own included, a token of a sliding-window layer sees; None: all."""
    part = cache.layers[layer] if layer < len(getattr(cache, "layers", ())) else None
    return part.sliding_window if getattr(part, "is_sliding", False) else None


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows `index` int64 [B, K] of `values` [B or 1, S, D]: [B, K, D]."""
    index = index.to(values.device)
    if len(index) == 1:
        return values.index_select(1, index[0])
    values = values.expand(len(index), -1, -1)
    return values[torch.arange(len(index), device=index.device)[:, None], index]


def _last_dimension(positions: Tensor, index: Tensor) -> Tensor:
    """position_ids [..., B or 1, S] -> [..., B, K]."""
    index = index.to(positions.device)
    lead = positions.shape[:-2]
    return positions.expand(*lead, len(index), -1).gather(-1, index.expand(*lead, -1, -1))


def _columns(mask: Tensor, columns: Tensor) -> Tensor:
    """Columns int64 [B, N] of a mask [B or 1, H, Q, S]."""
    heads, queries = mask.shape[1], mask.shape[2]
    columns = columns.to(mask.device)
    mask = mask.expand(len(columns), -1, -1, -1)
    return mask.gather(3, columns[:, None, None, :].expand(-1, heads, queries, -1))


def _square(mask: Tensor, kept: Kept) -> Tensor:
    """Rows and columns of a mask [B or 1, H, S, S] at the kept positions; padding is no key and sees only itself."""
    index = kept.index.to(mask.device)
    mask = mask.expand(len(index), -1, -1, -1)
    rows = mask.gather(2, index[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
    square = _columns(rows, index)
    if kept.full:
        return square
    padding = ~kept.valid.to(mask.device)
    square = _forbid(square, padding[:, None, None, :])
    itself = torch.diag_embed(padding)[:, None]
    return square | itself if square.dtype == torch.bool else square.masked_fill(itself, 0.0)


def _forbid(mask: Tensor, where: Tensor) -> Tensor:
    """The mask with the pairs in `where` closed too."""
    if mask.dtype == torch.bool:
        return mask & ~where
    return mask.masked_fill(where, torch.finfo(mask.dtype).min)
