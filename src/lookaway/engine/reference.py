"""The slow twin of `attach`: the same decisions, carried out by masking at full length. It judges the fast path."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.errors import UnsupportedModel
from .attachment import Attachment
from .cache.pruned_cache import PrunedCacheInfo
from .prefill.decoder_call import Kept, LayerCall, gather_rows
from .prefill.state import PrefillState

__all__ = ["Reference"]


class Reference(Attachment):
    """A policy attached by masking, until `detach()` or the end of its `with` block."""

    shortens = False

    def _left(self, call: LayerCall, prompt: PrefillState) -> Tensor:
        return call.hidden if prompt.kept is None else gather_rows(call.hidden, prompt.kept.index)

    def _carry_out(self, call: LayerCall, prompt: PrefillState, stay: tuple[Tensor, Tensor] | None) -> Any:
        kept, past = prompt.kept_at[call.layer], prompt.past
        assert kept is not None
        gone = _dropped(kept, prompt.length)
        return call.replaced(None, attention_mask=self._masked(call, _dropped_before(past, call.layer, gone), gone))

    def _skip(self, call: LayerCall, prompt: PrefillState, stay: tuple[Tensor, Tensor] | None) -> Any:
        return self._skipping.enter(call, prompt, call.hidden, self._left(call, prompt))

    def _behind(self, call: LayerCall, past: PrunedCacheInfo, length: int) -> Any:
        rows = len(call.hidden)
        gone = torch.zeros(rows, length, dtype=torch.bool, device=call.hidden.device)
        return call.replaced(None, attention_mask=self._masked(call, _dropped_before(past, call.layer, gone), gone))

    def _masked(self, call: LayerCall, past: Tensor, new: Tensor) -> Tensor:
        """The layer's mask, with dropped columns closed: `past` bool [B, P] of the cache, `new` bool [B, S] of the
        call, which themselves see only themselves."""
        queries, keys = new.shape[1], past.shape[1] + new.shape[1]
        mask = call.kwargs.get("attention_mask")
        if mask is None:  # transformers leaves a plain causal mask to SDPA
            if self._attention != "sdpa":
                raise UnsupportedModel(
                    f"The reference masks with SDPA or eager attention, not {self._attention!r}. Load the model with "
                    "attn_implementation='sdpa'."
                )
            columns = torch.arange(keys, device=new.device)
            mask = (columns <= columns[-queries:, None])[None, None]
        first = keys - mask.shape[-1]  # sliding windows begin later
        closed = torch.cat([past, new], 1)[:, None, None, first:]  # [B, 1, 1, keys]
        mask = mask.expand(len(new), -1, -1, -1)
        boolean = mask.dtype == torch.bool
        mask = mask.masked_fill(closed, 0 if boolean else torch.finfo(mask.dtype).min)
        itself = torch.nn.functional.pad(torch.diag_embed(new), (past.shape[1] - first, 0))[:, None]
        return mask.masked_fill(itself, 1 if boolean else 0)


def _dropped_before(past: PrunedCacheInfo, layer: int, new: Tensor) -> Tensor:
    """Columns of the cache that earlier prompts dropped, bool [B, P]."""
    kept = past.kept_at[layer]
    if kept is not None:
        return _dropped(kept, past.length)
    return torch.zeros(len(new), past.length, dtype=torch.bool, device=new.device)


def _dropped(kept: Kept, length: int) -> Tensor:
    """Columns of `length` that are gone, padding among them, bool [B, length]."""
    kept_slots = torch.zeros(len(kept.index), length, dtype=torch.bool, device=kept.index.device)
    # A slot that only pads may repeat a column, so what is kept is counted, not written.
    return kept_slots.int().scatter_add(1, kept.index, kept.valid.int()) == 0
