"""When looking stops mattering: what a fixed exit at every layer costs, and each sample's earliest safe exit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .attention_flow import families_of
from .intervals import mean_interval

__all__ = ["earliest_safe", "settled", "stopping_table"]


def earliest_safe(layers: Sequence[int], same: Sequence[bool], depth: int) -> int:
    """The earliest exit whose answer is the full run's (what an oracle would take); `depth` where none is."""
    return next((layer for layer, safe in zip(layers, same, strict=True) if safe), depth)


def settled(layers: Sequence[int], same: Sequence[bool], depth: int) -> int:
    """The earliest exit from which on every exit is safe; `depth` where the last one is not."""
    found = depth
    for layer, safe in zip(reversed(layers), reversed(same), strict=True):
        if not safe:
            break
        found = layer
    return found


def stopping_table(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Family -> what becomes of it for an exit before each of `layers`; the last layer is the depth: no exit.

    Returns:
        family -> `samples`, `layers`, `agreement` (mean, low, high of [C + 1]), `accuracy` (the same, or None where a
        sample has no ground truth), `loss` (mean rise of the loss of the model's own answer, [C + 1]), and, counted
        over layers 0 .. depth, `earliest` and `settled`: number of samples.
    """
    found: dict[str, Any] = {}
    for family, own in families_of(records):
        layers, depth = own[0]["exits"]["layers"], own[0]["num_layers"]
        same = _with_full([r["exits"]["same"] for r in own], [True] * len(own))
        loss = _with_full([r["exits"]["loss"] for r in own], [r["exits"]["full_loss"] for r in own])
        scored = all(record["exits"]["right"] is not None for record in own)
        found[family] = {
            "samples": len(own),
            "layers": [*layers, depth],
            "agreement": [part.tolist() for part in mean_interval(same)],
            "accuracy": None,
            "loss": (loss - loss[:, -1:]).mean(0).tolist(),
            "earliest": _counts([earliest_safe(layers, r["exits"]["same"], depth) for r in own], depth),
            "settled": _counts([settled(layers, r["exits"]["same"], depth) for r in own], depth),
        }
        if scored:
            right = _with_full([r["exits"]["right"] for r in own], [r["exits"]["full_right"] for r in own])
            found[family]["accuracy"] = [part.tolist() for part in mean_interval(right)]
    return found


def _with_full(rows: Sequence[Sequence[float]], full: Sequence[float]) -> NDArray[np.float64]:
    """[N, C] with the unpruned run as a last column."""
    return np.concatenate([np.array(rows, dtype=float), np.array(full, dtype=float)[:, None]], axis=1)


def _counts(layers: Sequence[int], depth: int) -> list[int]:
    return np.bincount(np.array(layers, dtype=np.int64), minlength=depth + 1).tolist()
