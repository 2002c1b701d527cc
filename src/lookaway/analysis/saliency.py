"""Gradient saliency over samples: in which layers the answer hangs on reading the image, and how much is to come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .attention_flow import families_of
from .intervals import mean_interval

__all__ = ["saliency_table"]


def saliency_table(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Family -> `samples`, `reading` and `remaining`: (mean, low, high) of [L].

    `reading` is each layer's share of a sample's sum, so that a sample with a large loss does not speak for all;
    `remaining` is the share of this layer and all later ones: 1 in the first, and the last layer's own in the last.
    A sample whose answer hangs on nothing is left out.
    """
    found: dict[str, Any] = {}
    for family, own in families_of(records):
        reading = np.array([record["saliency"]["reading"] for record in own], dtype=float)
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = reading / reading.sum(1, keepdims=True)
        left = shares[:, ::-1].cumsum(1)[:, ::-1]
        found[family] = {
            "samples": len(own),
            "reading": [part.tolist() for part in mean_interval(shares)],
            "remaining": [part.tolist() for part in mean_interval(left)],
        }
    return found
