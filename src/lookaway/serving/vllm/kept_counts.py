"""How many visual tokens of each picture a policy keeps before the decoder, known from the pictures' sizes alone.

Where that is known, a prompt can be handed to vLLM with fewer placeholder tokens, and nothing else of vLLM changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ...core.decision import LayerView, Policy
from ...core.layout import ImageSpan, TokenLayout
from ...policies.before_decoder.downsample import Downsample, cell_count
from ...policies.before_decoder.visionzip import VisionZip
from ...policies.ranked import RankedPolicy, count_of

__all__ = ["SIZES", "WHOLE", "before_decoder", "evenly_kept", "kept_counts", "reads"]

SIZES, PICTURE, WHOLE = "sizes", "picture", "whole prompt"


def before_decoder(policy: Policy, num_layers: int) -> bool:
    """Whether the policy can shorten prompts: all that it does happens before layer 0, to a known number of tokens."""
    if policy.retry() is not None or policy.layers(num_layers, 1) != (0,):
        return False
    if isinstance(policy, RankedPolicy):  # a method of its own, such as SparseVLM's, may keep another number
        return type(policy).decide is RankedPolicy.decide
    return type(policy) in (Downsample, VisionZip)


def reads(policy: Policy) -> str:
    """What its choice among a picture's tokens depends on: the pictures' sizes, the picture, or the whole prompt."""
    if isinstance(policy, RankedPolicy):
        return {"uniform": SIZES, "diversity": PICTURE}.get(policy.order().name, WHOLE)
    return PICTURE


def kept_counts(policy: Policy, num_layers: int, spans: Sequence[ImageSpan]) -> list[int] | None:
    """Visual tokens that stay of each picture of a prompt; None where that depends on more than their sizes.

    Args:
        policy: one of which `before_decoder` is true.
        spans: the prompt's pictures.
    """
    lengths = [span.length for span in spans]
    if isinstance(policy, VisionZip):
        return [count_of(policy.keep, length) for length in lengths]
    if isinstance(policy, Downsample):
        counts = [cell_count(span.grid, policy.factor) for span in spans if span.grid is not None]
        return counts if len(counts) == len(spans) else None
    if reads(policy) == SIZES:
        return [int(kept.sum()) for kept in evenly_kept(policy, num_layers, lengths)]
    assert isinstance(policy, RankedPolicy)
    return [count_of(policy.entries(num_layers)[0], lengths[0])] if len(lengths) == 1 else None


def evenly_kept(policy: Policy, num_layers: int, lengths: Sequence[int]) -> list[np.ndarray]:
    """Of each picture which tokens stay, bool [its length], under a policy that looks at sizes alone.

    Args:
        lengths: visual tokens of all pictures of the prompt, in order.
    """
    total = sum(lengths)
    visual = torch.ones(1, total, dtype=torch.bool)
    starts = np.cumsum([0, *lengths])
    spans = tuple(ImageSpan(int(start), length) for start, length in zip(starts, lengths, strict=False))
    layout = TokenLayout(visual, ~visual, ~visual, (spans,))
    keep = policy.decide(LayerView(0, num_layers, layout, torch.zeros(1, total, 1), visual.sum(1))).keep
    kept = np.ones(total, dtype=bool) if keep is None else keep[0].numpy()
    return np.split(kept, starts[1:-1])
