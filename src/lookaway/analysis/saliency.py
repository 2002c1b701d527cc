"""Gradient saliency over samples: in which layers the answer hangs on reading, and on what may still be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .attention_flow import families_of
from .intervals import mean_interval

__all__ = ["saliency_table"]


def saliency_table(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Family -> `samples`, `reading` and `remaining`: (mean, low, high) of [L].

    Each sample's curve is divided by its own sum first (`reading`) or its own first value (`remaining`), so a sample
    with a large loss does not speak for all. A sample whose answer hangs on nothing counts as a flat curve of NaN.
    """
    found: dict[str, Any] = {}
    for family, own in families_of(records):
        reading = np.array([record["saliency"]["reading"] for record in own], dtype=float)
        remaining = np.array([record["saliency"]["remaining"] for record in own], dtype=float)
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = reading / reading.sum(1, keepdims=True)
            left = remaining / remaining[:, :1]
        found[family] = {
            "samples": len(own),
            "reading": [part.tolist() for part in mean_interval(shares)],
            "remaining": [part.tolist() for part in mean_interval(left)],
        }
    return found
