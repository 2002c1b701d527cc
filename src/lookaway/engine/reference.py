"""The slow twin of `attach`: the same decisions, carried out by masking at full length. It judges the fast path."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.decision import Policy
from ..core.errors import UnsupportedModel
from .attach import Attachment
from .memory import Memory
from .proof import prove
from .pruning import Prompt
from .sequence import Kept, LayerCall, gather_rows

__all__ = ["Reference", "reference"]


def reference(model: Any, policy: Policy) -> Reference:
    """As `attach`, but nothing gets shorter: what the policy drops is masked out for all later layers.

    The policy sees the gathered rows that are left, exactly as under `attach`, so it decides the same. Outputs have the
    prompt's full length; `kept_columns()` tells which of them `attach` would have returned. SDPA and eager attention.
    """
    prove(model)
    return Reference(model, policy)


class Reference(Attachment):
    """A policy attached by masking, until `detach()` or the end of its `with` block."""

    def _left(self, call: LayerCall, prompt: Prompt) -> Tensor:
        return call.hidden if prompt.kept is None else gather_rows(call.hidden, prompt.kept.index)

    def _carry_out(self, call: LayerCall, prompt: Prompt, stay: tuple[Tensor, Tensor] | None) -> Any:
        kept = prompt.kept_at[call.layer]
        assert kept is not None
        return call.replaced(None, attention_mask=self._masked(call, _dropped(kept, prompt.length)))

    def _decode(self, call: LayerCall, memory: Memory) -> Any:
        kept = memory.kept_at[call.layer]
        assert kept is not None
        return call.replaced(None, attention_mask=self._masked(call, _dropped(kept, memory.length)))

    def _masked(self, call: LayerCall, dropped: Tensor) -> Tensor:
        """The layer's mask, with the prompt's columns `dropped` [B, S] closed; they themselves see only themselves."""
        rows, length = dropped.shape
        queries = call.hidden.shape[1]
        mask = call.kwargs.get("attention_mask")
        if mask is None:  # transformers leaves a plain causal mask to SDPA
            if self._attention != "sdpa":
                raise UnsupportedModel(
                    f"The reference masks with SDPA or eager attention, not {self._attention!r}. Load the model with "
                    "attn_implementation='sdpa'."
                )
            keys = queries if call.cache is None else call.cache.get_seq_length(0)
            keys = max(keys, queries)  # layer 0 has cached the new tokens already
            columns = torch.arange(keys, device=dropped.device)
            mask = (columns <= columns[-queries:, None])[None, None]
        total = queries if call.cache is None else max(call.cache.get_seq_length(), queries)  # columns up to now
        closed = torch.nn.functional.pad(dropped, (0, total - length))
        closed = closed[:, None, None, total - mask.shape[-1] :]  # [B, 1, 1, keys]; sliding windows begin later
        mask = mask.expand(rows, -1, -1, -1)
        least = 0 if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        mask = mask.masked_fill(closed, least)
        if queries == length == mask.shape[-1]:  # prefill
            itself = torch.diag_embed(dropped)[:, None]
            mask = mask.masked_fill(itself, 1 if mask.dtype == torch.bool else 0)
        return mask


def _dropped(kept: Kept, length: int) -> Tensor:
    """Columns of the prompt that are gone, padding among them, bool [B, S]."""
    stays = torch.zeros(len(kept.index), length, dtype=torch.bool, device=kept.index.device)
    # A slot that only pads may repeat a column, so what is kept is counted, not written.
    return stays.int().scatter_add(1, kept.index, kept.valid.int()) == 0
