"""Caches of a fixed size (`StaticCache`): filled by a growing cache's prefill, with a smaller layer where tokens left.

transformers compiles decoding on such caches, since their tensors never change their shapes. A prompt is prefilled
eagerly on a growing cache, which is what all of the engine knows; then each layer moves into the cache that the caller
gave. A layer that holds fewer columns gets less room, by just those columns: it costs less memory, and decoding reads
less. It answers for its length as if nothing had left, because transformers builds positions and one mask for all
layers from that; its own part of the mask is gathered in each step (`PrunedStaticLayer.narrowed`), by tensors alone, so
that a compiled graph can hold it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, StaticCache, StaticLayer

from ...core.errors import UnsupportedModel
from .kept import Kept
from .pruned_cache import PrunedCacheInfo

__all__ = ["PrunedStaticLayer", "growing_cache_for", "has_pruned_layers", "is_fixed_size", "move_into", "pruned_layer"]


class PrunedStaticLayer(StaticLayer):
    """A layer of a static cache that lacks some of the prompt's columns, and the room for them."""

    def __init__(self, kept: Kept, length: int, whole: int, device: torch.device) -> None:
        """An empty layer.

        Args:
            kept: the columns that it will hold of the prompt's, [B, K].
            length: columns of the prompt.
            whole: columns for which the cache has room in a layer that holds all.
            device: of its keys and values.
        """
        self.missing = length - kept.index.shape[1]
        """Columns of the prompt that it has no slots for."""
        super().__init__(max_cache_len=whole - self.missing)
        self.whole = whole
        later = torch.arange(length, whole, device=device).expand(len(kept.index), -1)
        self.columns = torch.cat([kept.index.to(device), later], 1)
        """Column of the whole prompt and answer that each slot stands for, int64 [B, slots]."""
        self.valid = torch.cat([kept.valid.to(device), torch.ones_like(later, dtype=torch.bool)], 1)
        """Slots that do not only pad, bool [B, slots]."""

    def narrowed(self, mask: Any) -> Tensor:
        """The part of a mask [B or 1, 1 or H, Q, whole] that this layer needs: [B, 1 or H, Q, slots].

        Raises:
            UnsupportedModel: the mask is none of a cache of a fixed size.
        """
        if not isinstance(mask, Tensor) or mask.dim() != 4 or mask.shape[3] != self.whole:
            found = f"of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else f"as {type(mask).__name__}"
            raise UnsupportedModel(
                f"A layer of a static cache got its attention mask {found}, where [batch, 1, queries, {self.whole}] "
                "was expected. Load the model with attn_implementation='sdpa' or 'eager', or use the default dynamic "
                "cache: generate(..., cache_implementation=None)."
            )
        rows = len(self.columns)
        index = self.columns.to(mask.device)[:, None, None, :].expand(-1, mask.shape[1], mask.shape[2], -1)
        mask = mask.expand(rows, -1, -1, -1).gather(3, index)
        valid = self.valid.to(mask.device)[:, None, None, :]
        if mask.dtype == torch.bool:
            return mask & valid
        return mask.masked_fill(~valid, torch.finfo(mask.dtype).min)

    # what transformers asks: as if nothing had left -------------------------------------------------------------------

    def get_seq_length(self) -> Any:
        return self.cumulative_length + self.missing if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.whole, 0

    def get_max_length(self) -> int:
        return self.whole

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        rows = beam_idx.to(self.columns.device)
        self.columns, self.valid = self.columns[rows], self.valid[rows]

    def reset(self) -> None:
        raise UnsupportedModel(
            "This static cache gave the room of removed visual tokens back, so it cannot be reset for another prompt. "
            "Make a new one: StaticCache(config, max_cache_len=...)."
        )


def is_fixed_size(cache: Any) -> bool:
    """Whether every layer of this cache has a fixed size, as compiled decoding wants it."""
    return bool(getattr(cache, "is_compileable", False))


def pruned_layer(cache: Any, layer: int) -> PrunedStaticLayer | None:
    """The layer of this cache, where it lacks columns and has a fixed size."""
    layers = getattr(cache, "layers", ())
    found = layers[layer] if layer < len(layers) else None
    return found if isinstance(found, PrunedStaticLayer) else None


def has_pruned_layers(cache: Any) -> bool:
    """Whether some layer of this cache lacks columns and has a fixed size."""
    return any(isinstance(layer, PrunedStaticLayer) for layer in getattr(cache, "layers", ()))


def growing_cache_for(cache: Any) -> Any:
    """An empty cache to prefill a prompt with that `move_into` then puts into `cache`, which is empty.

    Raises:
        UnsupportedModel: the cache is none that can be filled so.
    """
    plain = type(cache) is StaticCache and all(type(layer) is StaticLayer for layer in cache.layers)
    if not plain or getattr(cache, "offloading", False) or not hasattr(cache.layers[0], "cumulative_length"):
        kinds = sorted({type(layer).__name__ for layer in getattr(cache, "layers", ())})
        raise UnsupportedModel(
            f"{type(cache).__name__} with layers of kind {', '.join(kinds)} cannot be filled with a prompt that lost "
            "visual tokens; a plain StaticCache on one device can (transformers 5.20 or newer, no sliding windows, no "
            "offloading). Use the default dynamic cache: generate(..., cache_implementation=None)."
        )
    return DynamicCache()


def move_into(cache: Any, grown: Any, info: PrunedCacheInfo | None) -> None:
    """Put what was prefilled into a cache of a fixed size, layer by layer; `grown` is empty afterwards.

    Args:
        cache: an empty `StaticCache`. Layers that lack columns are replaced.
        grown: a `DynamicCache`, from `growing_cache_for`.
        info: which columns it holds; None: all.

    Raises:
        UnsupportedModel: the prompt is longer than the cache.
    """
    for index, layer in enumerate(grown.layers):
        keys, values, kept = layer.keys, layer.values, None if info is None else info.kept_at[index]
        length, whole = keys.shape[2] if info is None else info.length, cache.layers[index].max_cache_len
        if length > whole:
            raise UnsupportedModel(
                f"The static cache has room for {whole} tokens and the prompt has {length}. Make it longer: "
                "StaticCache(config, max_cache_len=...)."
            )
        if kept is not None:
            cache.layers[index] = PrunedStaticLayer(kept, length, whole, keys.device)
        cache.layers[index].update(keys, values)
        layer.keys = layer.values = None  # two copies of one layer at a time, not of the whole prompt
