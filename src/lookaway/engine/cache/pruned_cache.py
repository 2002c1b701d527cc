"""What a KV cache remembers of the removal: it goes with the cache through beams, copies and later turns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...core.errors import UnsupportedModel
from ..prefill.decoder_call import Kept, window_of

__all__ = ["PrunedCacheInfo", "recall", "remember"]

_ATTRIBUTE = "_lookaway_memory"


@dataclass
class PrunedCacheInfo:
    """Which of the first `length` columns each layer's cache holds; it holds all that came after them."""

    kept_at: list[Kept | None]  # [L], None: all
    length: int
    """Columns that this is about, up to the end of the latest prompt; layer 0 holds them all."""
    pad_right: bool = False
    """Rows that are shorter have their padding on the right, between prompt and answer."""

    @property
    def first_layer(self) -> int:
        """First layer whose cache is shorter than the prompt."""
        return next((layer for layer, kept in enumerate(self.kept_at) if kept), len(self.kept_at))

    def up_to(self, length: int) -> PrunedCacheInfo:
        """The same about more columns, all of which are held; or about fewer, where the cache was cropped.

        Raises:
            UnsupportedModel: it was cropped by columns that some layer or row does not hold.
        """
        if length == self.length:
            return self
        changed = {id(kept): self._changed(kept, length) for kept in self.kept_at if kept}
        return replace(self, kept_at=[changed[id(kept)] if kept else None for kept in self.kept_at], length=length)

    def _changed(self, kept: Kept, length: int) -> Kept:
        if length > self.length:
            return kept.followed_by(self.length, length)
        cut = self.length - length
        index, valid = kept.index[:, -cut:], kept.valid[:, -cut:]
        if not bool((valid & (index == torch.arange(length, self.length, device=index.device))).all()):
            raise UnsupportedModel(
                f"The KV cache was cropped into the prompt: from {self.length} columns to {length}, of which some had "
                "left. Run the conversation again."
            )
        return Kept(kept.index[:, :-cut], kept.valid[:, :-cut], kept.full)

    def rows(self, rows: Tensor) -> PrunedCacheInfo:
        """The memory of other rows int64 [B']."""
        moved = {id(kept): kept.rows(rows) for kept in self.kept_at if kept}
        return replace(self, kept_at=[moved[id(kept)] if kept else None for kept in self.kept_at])


def recall(cache: Any) -> PrunedCacheInfo | None:
    """What the cache remembers; None where it was filled without removal."""
    return getattr(cache, _ATTRIBUTE, None)


def remember(cache: Any, memory: PrunedCacheInfo) -> None:
    """Let the cache carry `memory` along when its rows are reordered, repeated, selected or copied.

    From now on it tells transformers, which builds one mask for all layers of a kind, the sizes of a prompt that lost
    nothing; each layer's call then gets the columns of that mask that its cache holds (engine/prefill/decoder_call.py).
    """
    if not isinstance(cache, _Remembering):
        cache.__class__ = _remembering(type(cache))  # type: ignore[arg-type]
    setattr(cache, _ATTRIBUTE, memory)


class _Remembering:
    """Mixed into the class of one cache object: moves the memory's rows with the cache's, and sizes masks in full."""

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """(columns, first column) of a mask for this layer, had nothing left; transformers asks before layer 0 runs."""
        if recall(self) is None:
            return super().get_mask_sizes(query_length, layer_idx)  # type: ignore[misc]
        past = self.get_seq_length()  # type: ignore[attr-defined]
        window = window_of(self, layer_idx)
        seen = past if window is None else min(past, window - 1)
        return seen + query_length, past - seen

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Columns before the new tokens, had nothing left."""
        if recall(self) is None:
            return super().get_query_offset(layer_idx)  # type: ignore[misc]
        return self.get_seq_length()  # type: ignore[attr-defined]

    def _move(self, rows: Tensor) -> None:
        memory = recall(self)
        if memory is not None:
            setattr(self, _ATTRIBUTE, memory.rows(rows))

    def _batch(self) -> int:
        memory = recall(self)
        return next((len(kept.index) for kept in memory.kept_at if kept), 0) if memory else 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self._move(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        self._move(torch.arange(self._batch()).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)  # type: ignore[misc]
        self._move(indices)

    def reset(self) -> None:
        super().reset()  # type: ignore[misc]
        setattr(self, _ATTRIBUTE, None)


@lru_cache
def _remembering(cache_class: type) -> type:
    return type(cache_class.__name__, (_Remembering, cache_class), {"__module__": cache_class.__module__})
