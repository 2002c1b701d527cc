"""KV caches of single prompts joined into one batch, and taken apart again: rows join and leave while they decode.

Every layer of every row may hold another number of keys, since rows leave their visual tokens behind at different
layers. A joined cache is padded on the left, layer by layer, and says which columns each row holds
(`PrunedCacheInfo`), so that the engine narrows transformers' mask for each layer as it does for a batch that was
prefilled together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .kept import Kept
from .pruned_cache import PrunedCacheInfo, read_cache_info, write_cache_info

__all__ = ["CacheRow", "is_joinable", "join_rows", "row_of"]


@dataclass(frozen=True, eq=False)
class CacheRow:
    """One row of a KV cache, and which columns of its own prompt each layer holds."""

    cache: Any
    row: int
    """Which row of `cache`; its columns are the last ones of each layer, left of them is padding."""
    kept: tuple[Tensor | None, ...]
    """[L] of int64 [K]: columns of the prompt that the layer holds; None: all."""
    prompt: int
    """Columns of the whole prompt."""
    length: int
    """Columns so far: the prompt's and those decoded since, all of which every layer holds."""
    shift: int = 0
    """Places by which later tokens are moved back, where the prompt's tokens were numbered anew."""

    def slots(self, layer: int) -> int:
        """Columns that this layer holds."""
        kept = self.kept[layer]
        return self.length if kept is None else len(kept) + self.length - self.prompt

    def longer(self, steps: int = 1) -> CacheRow:
        """The row after `steps` more decoded tokens."""
        return replace(self, length=self.length + steps)


def is_joinable(cache: Any, num_layers: int) -> bool:
    """Whether rows of this cache can be joined: every layer is transformers' plain growing one.

    Sliding windows, linear attention, skipped attentions and layers that share their keys are not: such rows decode
    alone.
    """
    from transformers.cache_utils import DynamicLayer

    layers = getattr(cache, "layers", ())
    return len(layers) == num_layers and all(type(layer) is DynamicLayer for layer in layers)


def row_of(cache: Any, length: int, num_layers: int) -> CacheRow:
    """The only row of a cache that one unpadded prompt of `length` columns has just filled."""
    info = read_cache_info(cache)
    if not isinstance(info, PrunedCacheInfo):
        return CacheRow(cache, 0, (None,) * num_layers, length, length)
    known: dict[int, Tensor] = {}
    for kept in info.kept_at:
        if kept is not None and id(kept) not in known:
            known[id(kept)] = kept.index[0, kept.valid[0]]  # shared by a stretch of layers, and so is this
    held = tuple(None if kept is None else known[id(kept)] for kept in info.kept_at)
    return CacheRow(cache, 0, held, length, length, 0 if info.shift is None else int(info.shift[0]))


def join_rows(rows: Sequence[CacheRow]) -> tuple[Any, list[CacheRow]]:
    """One cache with these rows, in this order, and the rows as they stand in it.

    Keys and values are copied; the caches that they come from stay as they are.

    Returns:
        The cache, [B, heads, K, D] in each layer, padded on the left to the layer's longest row; its rows.
    """
    from transformers import DynamicCache

    joined, length = DynamicCache(), max(row.length for row in rows)
    known: dict[tuple[int, ...], Kept | None] = {}
    kept_at: list[Kept | None] = []
    for layer in range(len(rows[0].kept)):
        joined.update(_stacked(rows, layer, "keys"), _stacked(rows, layer, "values"), layer)
        key = tuple(id(row.kept[layer]) for row in rows)
        if key not in known:
            known[key] = _kept(rows, layer, length)
        kept_at.append(known[key])
    if any(kept is not None for kept in kept_at):
        moved = any(row.shift for row in rows)
        shift = torch.tensor([row.shift for row in rows]) if moved else None
        write_cache_info(joined, PrunedCacheInfo(tuple(kept_at), length, shift=shift))
    return joined, [replace(row, cache=joined, row=i) for i, row in enumerate(rows)]


def _stacked(rows: Sequence[CacheRow], layer: int, part: str) -> Tensor:
    """Keys or values of one layer, [B, heads, K, D]."""
    counts = [row.slots(layer) for row in rows]
    sources = [getattr(row.cache.layers[layer], part)[row.row] for row in rows]  # [heads, K, D] each
    width = max(counts)
    whole = sources[0].new_zeros(len(rows), sources[0].shape[0], width, sources[0].shape[2])
    for i, (source, count) in enumerate(zip(sources, counts, strict=True)):
        whole[i, :, width - count :] = source[:, source.shape[1] - count :]
    return whole


def _kept(rows: Sequence[CacheRow], layer: int, length: int) -> Kept | None:
    """The columns of the joined prompt, `length` wide, that each row's slots of this layer stand for."""
    if all(row.kept[layer] is None for row in rows):
        return None
    width = max(row.slots(layer) for row in rows)
    device = rows[0].cache.layers[layer].keys.device
    index = torch.zeros(len(rows), width, dtype=torch.int64, device=device)
    valid = torch.zeros(len(rows), width, dtype=torch.bool, device=device)
    for i, row in enumerate(rows):
        kept = row.kept[layer]
        prompt = torch.arange(row.prompt, device=device) if kept is None else kept.to(device)
        own = torch.cat([prompt, torch.arange(row.prompt, row.length, device=device)])
        index[i, width - len(own) :] = own + length - row.length  # shorter rows begin further right
        valid[i, width - len(own) :] = True
    return Kept(index, valid, full=all(row.slots(layer) == width for row in rows))
