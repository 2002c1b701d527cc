"""What a KV cache says of the columns that it does not hold: it goes with the cache through beams, copies and turns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from ...core.errors import UnsupportedModel
from .growing import LaterColumns
from .kept import Kept, window_of

__all__ = ["CacheInfo", "PrunedCacheInfo", "read_cache_info", "sizes_as_held", "write_cache_info"]

_ATTRIBUTE = "_lookaway_info"
_HELD = "_lookaway_as_held"


class CacheInfo(Protocol):
    """What can be written into a cache: something with an entry for each of its rows."""

    @property
    def batch(self) -> int:
        """Number of rows; 0 where nothing is known row by row."""

    @property
    def missing(self) -> int:
        """Columns that layer 0 does not hold, having left before the decoder."""

    def rows(self, rows: Tensor) -> Self:
        """The same about other rows int64 [B']."""


@dataclass(frozen=True)
class PrunedCacheInfo:
    """Which of the first `length` columns each layer's cache holds; it holds all that came after them."""

    kept_at: tuple[Kept | None, ...]  # [L], None: all
    length: int
    """Columns that this is about, up to the end of the latest prompt."""
    pad_right: bool = False
    """Rows that are shorter have their padding on the right, between prompt and answer."""

    shift: Tensor | None = None  # int64 [B]
    """Places by which later tokens of a row are moved back, where tokens were numbered anew; None: by none."""

    @classmethod
    def of_whole(cls, num_layers: int, length: int) -> PrunedCacheInfo:
        """Of a cache whose layers hold all of `length` columns."""
        return cls((None,) * num_layers, length)

    @cached_property
    def later(self) -> LaterColumns:
        """What forwards behind these columns share: it stays with the cache from step to step."""
        return LaterColumns(self.kept_at, self.length)

    @cached_property
    def first_layer(self) -> int:
        """First layer whose cache is shorter than the prompt; the number of layers where none is."""
        return min(self.later.shortened, default=len(self.kept_at))

    @property
    def batch(self) -> int:
        return next((len(kept.index) for kept in self.kept_at if kept), 0)

    @property
    def missing(self) -> int:
        first = self.kept_at[0]
        return 0 if first is None else self.length - first.index.shape[1]

    def up_to(self, length: int) -> PrunedCacheInfo:
        """The same about more columns, all of which are held; or about fewer, where the cache was cropped.

        Raises:
            UnsupportedModel: it was cropped by columns that some layer or row does not hold.
        """
        if length == self.length:
            return self
        changed = {id(kept): self._changed(layer, kept, length) for layer, kept in enumerate(self.kept_at) if kept}
        return replace(self, kept_at=tuple(changed[id(kept)] if kept else None for kept in self.kept_at), length=length)

    def _changed(self, layer: int, kept: Kept, length: int) -> Kept:
        if length > self.length:
            return self.later.at(layer, length) or kept
        cut = self.length - length
        index, valid = kept.index[:, -cut:], kept.valid[:, -cut:]
        if not bool((valid & (index == torch.arange(length, self.length, device=index.device))).all()):
            raise UnsupportedModel(
                f"The KV cache was cropped into the prompt: from {self.length} columns to {length}, of which some had "
                "left. Run the conversation again."
            )
        return Kept(kept.index[:, :-cut], kept.valid[:, :-cut], kept.full)

    def rows(self, rows: Tensor) -> PrunedCacheInfo:
        """The same about other rows int64 [B']."""
        moved = {id(kept): kept.rows(rows) for kept in self.kept_at if kept}
        shift = None if self.shift is None else self.shift[rows.to(self.shift.device)]
        kept_at = tuple(moved[id(kept)] if kept else None for kept in self.kept_at)
        return replace(self, kept_at=kept_at, shift=shift)


def read_cache_info(cache: Any) -> Any:
    """What was written into the cache; None where it was filled without removal."""
    return getattr(cache, _ATTRIBUTE, None)


def write_cache_info(cache: Any, info: CacheInfo) -> None:
    """Let the cache carry `info` along when its rows are reordered, repeated, selected or copied.

    From now on this cache object is of a subclass of its class, and stays so after the policy was detached: it tells
    transformers, which builds one mask for all layers of a kind, the sizes of a prompt that lost nothing; each layer's
    call then gets the columns of that mask that its cache holds (engine/prefill/decoder_call.py).
    """
    if not isinstance(cache, _WithInfo):
        cache.__class__ = _with_info(type(cache))  # type: ignore[arg-type]
    setattr(cache, _ATTRIBUTE, info)


def sizes_as_held(cache: Any, held: bool) -> None:
    """Let a cache that carries an info tell the sizes that it really holds (True), or those of the whole prompt again.

    For a decoder that runs on a shorter prompt as a whole (`entry.py`): it builds its masks by what is stored.
    """
    if isinstance(cache, _WithInfo):
        setattr(cache, _HELD, held)


def _full_sizes(cache: Any) -> Any:
    """The cache's info, where sizes are to be told as if nothing had left; else None."""
    return None if getattr(cache, _HELD, False) else read_cache_info(cache)


class _WithInfo:
    """Mixed into the class of one cache object: moves the info's rows with the cache's, and sizes masks in full."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns so far, had nothing left before the decoder: transformers counts positions by it. Of layers behind
        layer 0, what they hold."""
        info = _full_sizes(self)
        held: int = super().get_seq_length(layer_idx)  # type: ignore[misc]
        return held if info is None or layer_idx else held + info.missing

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """(columns, first column) of a mask for this layer, had nothing left; transformers asks before layer 0 runs."""
        if _full_sizes(self) is None:
            return super().get_mask_sizes(query_length, layer_idx)  # type: ignore[misc]
        past = self.get_seq_length()
        window = window_of(self, layer_idx)
        seen = past if window is None else min(past, window - 1)
        return seen + query_length, past - seen

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Columns before the new tokens, had nothing left."""
        if _full_sizes(self) is None:
            return super().get_query_offset(layer_idx)  # type: ignore[misc]
        return self.get_seq_length()

    def _move(self, rows: Tensor) -> None:
        info = read_cache_info(self)
        if info is not None:
            setattr(self, _ATTRIBUTE, info.rows(rows))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self._move(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        info = read_cache_info(self)
        self._move(torch.arange(info.batch if info is not None else 0).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)  # type: ignore[misc]
        self._move(indices)

    def reset(self) -> None:
        super().reset()  # type: ignore[misc]
        setattr(self, _ATTRIBUTE, None)


@lru_cache
def _with_info(cache_class: type) -> type:
    return type(cache_class.__name__, (_WithInfo, cache_class), {"__module__": cache_class.__module__})
