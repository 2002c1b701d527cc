"""The place of a skipped attention in a KV cache: no keys and values, but what its replacement knows of the prompt.

It answers for its length as the first layer whose attention runs, and what left before that one counted too:
transformers derives positions and masks from layer 0's length, and layer 0 may be skipped.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from ...core.errors import AttachError, UnsupportedModel

__all__ = ["SkippedSlot", "slot_at"]


class SkippedSlot(CacheLayerMixin):
    """One skipped layer in a KV cache. Its context [B, C] goes with the cache's rows."""

    is_sliding = False
    supports_early_init = False
    is_croppable = True

    def __init__(self, real: Any) -> None:
        super().__init__()
        self.real = real
        self.missing = 0
        """Columns of the prompt that left before the real layer, and that it does not hold."""
        self.is_compileable = getattr(real, "is_compileable", False)
        self.context: Tensor | None = None
        self.known = False
        """The prompt was seen, so `context` is what there is to know of it."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise AssertionError("a skipped layer stores nothing")

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise AttachError(
            "This KV cache was filled while the attention of some layers was skipped, and one of them runs now. "
            "Continue the cache under the policy that it was made with, or run the prompt again."
        )

    # lengths: those of a layer that runs ------------------------------------------------------------------------------

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        length, offset = self.real.get_mask_sizes(query_length)
        return length + self.missing, offset

    def get_seq_length(self) -> int:
        return self.real.get_seq_length() + self.missing

    def get_max_length(self) -> int:
        return self.real.get_max_length()

    def get_max_cache_shape(self) -> int:
        return self.real.get_max_cache_shape()

    # rows ------------------------------------------------------------------------------------------------------------

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._take(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        self._take(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.context is not None:
            self.context = self.context.repeat_interleave(repeats, dim=0)

    def _take(self, rows: Tensor) -> None:
        if self.context is not None:
            self.context = self.context[rows.to(self.context.device)]

    def crop(self, tokens_to_remove: int) -> None:
        """Nothing to cut: the context is the prompt's."""

    def reset(self) -> None:
        self.context, self.known, self.missing = None, False, 0


def slot_at(cache: Any, layer: int, first_kept: int) -> SkippedSlot | None:
    """The slot of a skipped layer, put in place where there is none yet; None without a cache.

    Args:
        first_kept: the first layer whose attention runs.

    Raises:
        AttachError: the layer has stored keys already, so its attention ran on this prompt.
        UnsupportedModel: the cache is of an unknown form.
    """
    if cache is None:
        return None
    layers = getattr(cache, "layers", None)
    if not isinstance(layers, list):
        raise UnsupportedModel(
            f"Skipping attention needs a KV cache with one entry a layer, not {type(cache).__name__}. Use the default "
            "cache: generate(..., cache_implementation=None)."
        )
    while len(layers) <= max(layer, first_kept):
        layers.append(cache.layer_class_to_replicate())
    slot = layers[layer]
    if isinstance(slot, SkippedSlot):
        return slot
    stored = getattr(slot, "keys", None)
    if isinstance(stored, torch.Tensor) and stored.numel() and slot.get_seq_length() > 0:
        raise AttachError(
            f"The attention of layer {layer} ran on what this KV cache holds, and the policy skips it. Run the "
            "prompt again without past_key_values, or detach."
        )
    layers[layer] = SkippedSlot(layers[first_kept])
    return layers[layer]
