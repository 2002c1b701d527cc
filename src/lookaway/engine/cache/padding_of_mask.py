"""The prompt's padding, read from the mask that transformers prepares for a static cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .fixed_size import is_fixed_size

__all__ = ["padding_mask"]


def padding_mask(mask: Any, cache: Any, length: int) -> Any:
    """The mask [B, S], 1 = real token, that a prepared mask was made of; any other mask as it is.

    `generate` hands a compileable cache's prompt a mask [B, 1, S, columns of the cache], bool or additive, in place of
    the user's; for decoders that name the kinds of their layers, one for each kind. Only a plain causal mask over left
    or right padding is read; the layout refuses what this leaves alone.

    Args:
        mask: what the forward got.
        cache: its KV cache, empty so far.
        length: tokens of the prompt, S.
    """
    if isinstance(mask, dict) and set(mask) == {"full_attention"}:
        return padding_mask(mask["full_attention"], cache, length)
    prepared = isinstance(mask, Tensor) and mask.dim() == 4 and mask.shape[1:3] == (1, length)
    if not prepared or not is_fixed_size(cache) or mask.shape[3] < length:
        return mask
    allowed = (mask if mask.dtype == torch.bool else mask == 0)[:, 0]  # [B, S, columns]
    real = allowed[:, -1, :length]
    slots = torch.arange(allowed.shape[2], device=mask.device)
    causal = (slots <= slots[:length, None]) & torch.nn.functional.pad(real, (0, len(slots) - length))[:, None]
    # Rows that pad attend to nothing, or to anything: nobody reads them.
    return real.long() if bool((allowed == causal)[real].all()) else mask
