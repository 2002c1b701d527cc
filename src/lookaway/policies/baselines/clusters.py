"""Groups of similar tokens by density peaks, for methods that merge what leaves."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["density_peaks"]

NEIGHBOURS = 5
"""A token's density is taken from so many nearest tokens, itself included."""


def density_peaks(states: Tensor, real: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Clusters around tokens that lie densely and far from denser ones (DPC-KNN; Du, Ding, Jia 2016).

    Args:
        states: [B, R, D]. real: bool [B, R], tokens that there are; the others only fill up.
        count: int64 [B], clusters of each row, at most its tokens.

    Returns:
        `(center bool [B, R], own int64 [B, R])`: which tokens are centers; of each token the place of its center.
    """
    points = states.float()
    far = torch.cdist(points, points) / points.shape[2] ** 0.5  # [B, R, R]
    both = real[:, :, None] & real[:, None]
    far = far.masked_fill(~both, torch.inf)
    near = far.topk(min(NEIGHBOURS, far.shape[2]), dim=2, largest=False).values
    known = near.isfinite()
    density = (-(near.masked_fill(~known, 0.0).square().sum(2) / known.sum(2).clamp(min=1))).exp()
    density = density.masked_fill(~real, -1.0)
    place = torch.arange(density.shape[1], device=density.device)
    earlier = place[:, None] > place  # of equal densities the first counts as denser
    denser = (density[:, None] > density[:, :, None]) | ((density[:, None] == density[:, :, None]) & earlier)
    gap = far.masked_fill(~denser, torch.inf).amin(2)  # to the nearest denser token
    widest = far.masked_fill(~both, -torch.inf).amax(2)
    gap = torch.where(gap.isfinite(), gap, widest)
    score = (gap * density).masked_fill(~real, -torch.inf)
    rank = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    center = real & (rank < count[:, None])
    own = far.masked_fill(~center[:, None], torch.inf).argmin(2)
    return center, torch.where(center, place, own)
