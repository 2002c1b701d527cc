"""Rankings that look at nothing: what any other ranking must beat at the same schedule."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.decision import LayerView
from .base import Wanted, ranking

__all__ = ["random", "uniform"]


@ranking("uniform", "evenly spaced over the tokens that are left, in raster order")
def uniform(view: LayerView, wanted: Wanted) -> Tensor:
    """1 for the wanted number of visual tokens, evenly spaced over those that are left, else 0. [B, S]

    Spaced along the sequence (rows of patches one after another), over all images of a row together.
    """
    visual = view.layout.visual
    place = visual.cumsum(1) - 1  # [B, S]: 0, 1, ... over a row's visual tokens
    left = view.layout.visual_counts[:, None].clamp(min=1)
    counts = torch.tensor(wanted.counts, device=visual.device)[:, None]
    counts = torch.minimum(counts, left)
    # Token i is taken where (i + 1) m / n and i m / n round to different numbers: exactly m of n are.
    before, after = (2 * place * counts + left) // (2 * left), (2 * (place + 1) * counts + left) // (2 * left)
    return (after > before).float()


@ranking("random", "a draw from the seed, the layer and the prompt; the same on every run")
def random(view: LayerView, wanted: Wanted) -> Tensor:
    """Numbers in [0, 1) that are a hash of the seed, the layer, the token's place and its row's mean state. [B, S]

    No random state is used: the same prompt gives the same numbers on every run and in any batch (but for rare near
    ties, where padding moves the last bits of the mean state; coarser types move more).
    """
    visual = view.layout.visual
    place = visual.cumsum(1) - 1
    key = 1_000_003 * wanted.seed + view.layer
    real = ~view.layout.padding[:, :, None]
    mean = view.hidden.float().masked_fill(~real, 0.0).sum(1) / real.sum(1).clamp(min=1)  # [B, D]
    direction = hashed(torch.arange(mean.shape[1], device=mean.device), key) - 0.5
    phase = 100 * (mean @ direction) / (mean.norm(dim=1) * direction.norm()).clamp(min=1e-12)  # [B]
    return (hashed(place, 2 * key) + hashed(place, 2 * key + 1) * phase[:, None]) % 1


def hashed(numbers: Tensor, key: int) -> Tensor:
    """Integers int64 of any shape to fp32 in [0, 1), evenly and without pattern, the same on every device.

    The mixing steps of splitmix64 (Steele, Lea, Flood 2014), with 64-bit integers that wrap around.
    """
    x = numbers * _signed(0x9E3779B97F4A7C15) + _signed(key * 0xD1B54A32D192ED03)
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return _shift(x ^ _shift(x, 31), 40).float() / 2**24


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """The number modulo 2^64, as a signed 64-bit integer."""
    number %= 1 << 64
    return number - (1 << 64) if number >= 1 << 63 else number
