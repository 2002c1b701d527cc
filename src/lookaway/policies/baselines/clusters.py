"""Groups of similar tokens by density peaks, for methods that merge what leaves."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.decision import Decision, LayerView
from ..ranked import originals
from ..ranking import keep_best

__all__ = ["density_peaks", "keep_and_merge"]

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


def keep_and_merge(view: LayerView, scores: Tensor, counts: Tensor, recycle: float, groups: float) -> Decision:
    """Of each row the best visual tokens stay, and the best of those that leave are merged into a few (SparseVLM).

    Args:
        scores: [B, S], higher is kept longer. counts: int64 [B], tokens that stay, merged ones included.
        recycle: share of the tokens that leave which is merged. groups: merged tokens for each that goes into one.
    """
    visual, left = view.layout.visual, view.layout.visual_counts
    merged = (recycle * (left - counts)).round().long()  # [B]: tokens that go into others
    centers = torch.minimum((groups * merged).ceil().long(), (counts - 1).clamp(min=0))
    best = keep_best(view, scores, counts - centers) & visual
    widest = max(round(recycle * total) for total in originals(view))
    if not widest:
        return Decision(keep=~visual | best)
    rest = scores.masked_fill(~visual | best, -torch.inf)
    index = rest.argsort(dim=1, descending=True, stable=True)[:, :widest]  # [B, R]
    real = torch.arange(index.shape[1], device=index.device) < merged[:, None]
    return _with_merged(view, best, index, real, centers)


def _with_merged(view: LayerView, best: Tensor, index: Tensor, real: Tensor, centers: Tensor) -> Decision:
    """`best` bool [B, S] stay as they are; the slots `index` [B, R] that are `real` become `centers` [B] means."""
    visual, hidden = view.layout.visual, view.hidden
    states = hidden.gather(1, index[:, :, None].expand(-1, -1, hidden.shape[2]))
    center, own = density_peaks(states.detach(), real, centers)
    places = torch.arange(index.shape[1], device=index.device)
    share = ((own[:, :, None] == places) & (real & center.any(1, keepdim=True))[:, :, None]).to(hidden.dtype)
    means = (share / share.sum(1, keepdim=True).clamp(min=1)).transpose(1, 2) @ states  # [B, R, D], at the centers
    states = torch.where(center[:, :, None], means, states)
    values = hidden.scatter(1, index[:, :, None].expand_as(states), states)
    is_center = torch.zeros_like(visual).scatter(1, index, center)
    return Decision(keep=~visual | best | is_center, values=values)
