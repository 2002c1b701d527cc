"""What text would lose if it did not look, window by window of layers, and where attention mass says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .attention_flow import families_of
from .intervals import draws_of, mean_interval

__all__ = ["causes_table", "default_width", "rank_correlation", "sliding_windows"]

Floats = NDArray[np.float64]


def default_width(depth: int) -> int:
    """A sixth of the depth."""
    return max(1, round(depth / 6))


def sliding_windows(depth: int, width: int) -> list[tuple[int, int]]:
    """[first, stop) of all windows of `width` layers."""
    width = min(max(width, 1), depth)
    return [(first, first + width) for first in range(depth - width + 1)]


def causes_table(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Attention mass beside two kinds of causal evidence, for each window of layers.

    Returns:
        `windows`; `mass` (share of text's attention that falls on the image, heads merged by mean, averaged over the
        window's layers), `effect` (rise of the loss of the model's own answer), `changed` (share of answers that
        change) and `saliency` (gradient saliency averaged over the window), each (mean, low, high) of [W];
        `accuracy` [W] and `full_accuracy` (None without ground truth); `families`: family -> `samples`, `effect`,
        `changed` [W]; `agreement`: rank correlation over windows of mass with effect, and of saliency with effect, each
        [value, low, high]; `distance`: how much of the mass would have to move to lie where the effect lies, 0 .. 1;
        `overrated` / `underrated`: windows that hold more (less) of the mass than of the effect, beyond the 95 %
        interval.
    """
    windows = [tuple(window) for window in records[0]["knockout"]["windows"]]
    mass, saliency = (_in_windows(np.array(curves, dtype=float), windows) for curves in (
        [record["flow"]["mean"]["cross"] for record in records],
        [record["saliency"]["reading"] for record in records],
    ))  # fmt: skip
    effect, changed = _effect(records), _changed(records)
    right = [record["knockout"]["right"] for record in records]
    scored = all(one is not None for one in right)
    chosen = draws_of(len(records))
    drawn = {name: values[chosen].mean(1) for name, values in
             (("mass", mass), ("effect", effect), ("saliency", saliency))}  # fmt: skip
    gaps = _shares(drawn["mass"]) - _shares(drawn["effect"])
    low, high = np.percentile(gaps, [2.5, 97.5], axis=0)
    gap = _shares(mass.mean(0)[None])[0] - _shares(effect.mean(0)[None])[0]
    return {
        "samples": len(records),
        "windows": [list(window) for window in windows],
        "mass": _parts(mass),
        "effect": _parts(effect),
        "changed": _parts(changed),
        "saliency": _parts(saliency),
        "accuracy": np.mean(right, axis=0).tolist() if scored else None,
        "full_accuracy": float(np.mean([r["knockout"]["full_right"] for r in records])) if scored else None,
        "families": {
            family: {"samples": len(own), "effect": _effect(own).mean(0).tolist(),
                     "changed": _changed(own).mean(0).tolist()}
            for family, own in families_of(records)
        },
        "agreement": {
            "mass": _correlation(mass, effect, drawn["mass"], drawn["effect"]),
            "saliency": _correlation(saliency, effect, drawn["saliency"], drawn["effect"]),
        },
        "distance": float(np.abs(gap).sum() / 2),
        "overrated": [number for number in range(len(windows)) if low[number] > 0],
        "underrated": [number for number in range(len(windows)) if high[number] < 0],
    }  # fmt: skip


def rank_correlation(first: Floats, second: Floats) -> Floats:
    """Spearman's rank correlation along the last dimension, [...]; NaN where one side is all the same."""
    one, two = (_ranks(values) for values in (first, second))
    one, two = one - one.mean(-1, keepdims=True), two - two.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((one * two).sum(-1) / np.sqrt((one**2).sum(-1) * (two**2).sum(-1)))


def _ranks(values: Floats) -> Floats:
    """Ranks along the last dimension; ties share the mean of theirs."""
    below = (values[..., None] > values[..., None, :]).sum(-1)
    same = (values[..., None] == values[..., None, :]).sum(-1)
    return np.asarray(below + (same - 1) / 2, dtype=float)


def _in_windows(curves: Floats, windows: Sequence[tuple[int, ...]]) -> Floats:
    """Curves [N, L] averaged over each window's layers, [N, W]."""
    return np.stack([curves[:, first:stop].mean(1) for first, stop in windows], 1)


def _effect(records: Sequence[dict[str, Any]]) -> Floats:
    return np.array([np.array(r["knockout"]["loss"]) - r["knockout"]["full_loss"] for r in records])


def _changed(records: Sequence[dict[str, Any]]) -> Floats:
    return 1.0 - np.array([r["knockout"]["same"] for r in records], dtype=float)


def _shares(curves: Floats) -> Floats:
    """Curves [draws, W] as shares of their sum; what is below 0 counts as 0."""
    curves = np.maximum(curves, 0.0)
    total = curves.sum(1, keepdims=True)
    return np.where(total > 0, curves / np.where(total > 0, total, 1.0), 1.0 / curves.shape[1])


def _parts(values: Floats) -> list[list[float]]:
    return [part.tolist() for part in mean_interval(values)]


def _correlation(first: Floats, second: Floats, drawn: Floats, other: Floats) -> list[float | None]:
    value = float(rank_correlation(first.mean(0), second.mean(0)))
    found = rank_correlation(drawn, other)
    found = found[~np.isnan(found)]
    if np.isnan(value) or not len(found):
        return [None, None, None]
    low, high = np.percentile(found, [2.5, 97.5])
    return [value, float(low), float(high)]
