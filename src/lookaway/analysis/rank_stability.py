"""Do layers agree on which visual tokens matter? Kendall's tau and top-k overlap between all pairs of layers.

G-Search (arXiv 2412.00556) rests on it: scores of neighbouring layers rank the tokens alike, so a token that a layer
ranks low may leave for good. `1 - overlap` of neighbouring layers is the share of tokens that break that assumption.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .intervals import mean_interval

__all__ = ["QUERIES", "kendall_matrix", "overlap_matrix", "rank_table"]

Floats = NDArray[np.float64]
QUERIES = ("last", "text")
"""Whose attention scores the visual tokens: the last prompt token, or the mean over the question's tokens."""


def kendall_matrix(scores: Floats) -> Floats:
    """Kendall's tau-b between all pairs of layers, [L, L]; NaN where a layer scores all tokens the same.

    Args:
        scores: [L, V].
    """
    layers, tokens = scores.shape
    agree, untied = np.zeros((layers, layers)), np.zeros(layers)
    for token in range(tokens - 1):  # pairs of tokens, a row of them at a time
        signs = np.sign(scores[:, token, None] - scores[:, token + 1 :])
        agree += signs @ signs.T
        untied += np.abs(signs).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(agree / np.sqrt(np.outer(untied, untied)))


def overlap_matrix(scores: Floats, count: int) -> Floats:
    """Share of the `count` highest tokens that two layers have in common, [L, L]. Ties: the earlier token first."""
    top = np.zeros(scores.shape)
    np.put_along_axis(top, np.argsort(-scores, axis=1, kind="stable")[:, :count], 1.0, axis=1)
    return np.asarray(top @ top.T / count)


def rank_table(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean over samples of both measures, for each kind of query.

    Returns:
        query -> `tau` and `overlap` [L][L], `next_tau` (mean, low, high; each [L - 1], layer i with i + 1),
        `next_overlap` the same, `median` [L] (median score of a visual token), `top_share`.
    """
    found: dict[str, Any] = {"samples": len(records)}
    for query in QUERIES:
        own = [record["ranks"][query] for record in records]
        tau, overlap = (np.array([one[name] for one in own], dtype=float) for name in ("tau", "overlap"))
        found[query] = {
            "tau": _mean(tau),
            "overlap": _mean(overlap),
            "next_tau": _intervals(np.diagonal(tau, 1, 1, 2)),
            "next_overlap": _intervals(np.diagonal(overlap, 1, 1, 2)),
            "median": _mean(np.array([one["median"] for one in own], dtype=float)),
        }
    found["top_share"] = records[0]["ranks"]["top_share"]
    return found


def _mean(values: Floats) -> list[Any]:
    mean, _, _ = mean_interval(values, draws=1)
    return list(mean.tolist())


def _intervals(values: Floats) -> list[list[float]]:
    return [part.tolist() for part in mean_interval(values)]
