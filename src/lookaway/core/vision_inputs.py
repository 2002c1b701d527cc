"""What the vision tower's own attention says of each visual token, for policies that choose before the decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["VisionInputs", "attention_received"]

CHUNK = 64
"""Query rows whose weights are in memory at once."""


@dataclass(frozen=True)
class VisionInputs:
    """Numbers of one attention of the vision tower, at the slots of the visual tokens that it made. Read-only."""

    attention: Tensor
    """fp32 [B, S]: attention that the token gets, mean over heads: from the class token where the tower has one, else
    from all tokens of its picture. 0 at other slots."""
    keys: Tensor
    """fp32 [B, S, d]: the token's key, mean over heads. 0 at other slots."""


def attention_received(queries: Tensor, keys: Tensor, scaling: float, class_token: bool) -> Tensor:
    """Attention that each token of a picture gets, mean over heads. Never a whole map.

    Args:
        queries, keys: [N, H, P, d] of N pictures of P tokens.
        scaling: factor on the dot products before the softmax.
        class_token: token 0 is a class token: its row alone counts, and it is left out of the answer.

    Returns:
        fp32 [N, P], or [N, P - 1] with a class token.
    """
    if class_token:
        weights = (queries[:, :, :1] @ keys.transpose(2, 3)).float().mul(scaling).softmax(-1)  # [N, H, 1, P]
        return weights[:, :, 0, 1:].mean(1)
    total = torch.zeros(keys.shape[0], keys.shape[2], device=keys.device)
    for start in range(0, queries.shape[2], CHUNK):
        some = queries[:, :, start : start + CHUNK]
        total += (some @ keys.transpose(2, 3)).float().mul(scaling).softmax(-1).mean(1).sum(1)
    return total / queries.shape[2]
