"""Where attention goes, layer by layer: mean and variance over samples, for all questions and for each family."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

__all__ = ["entropy_table", "families_of", "flow_table"]


def families_of(records: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """('all', all records), then each family by name with its records."""
    yield "all", list(records)
    for family in sorted({record["family"] for record in records if record["family"] is not None}):
        yield family, [record for record in records if record["family"] == family]


def flow_table(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Family -> `samples`, and for both ways to merge heads ('max' as published, 'mean') each sum's [L] mean, variance.

    Variances are over samples (divided by N - 1; None for one sample).
    """
    found: dict[str, Any] = {}
    for family, own in families_of(records):
        found[family] = {"samples": len(own)}
        for merge in ("max", "mean"):
            names = own[0]["flow"][merge]
            found[family][merge] = {name: _moments([record["flow"][merge][name] for record in own]) for name in names}
    return found


def entropy_table(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Entropies [L] without exit ('full') and with exits before some layers (by layer): mean, variance over samples."""
    found = {"full": {name: _moments([r["entropy"][name] for r in records]) for name in records[0]["entropy"]}}
    for layer in records[0]["entropy_after_exit"]:
        own = [record["entropy_after_exit"][layer] for record in records]
        found[layer] = {name: _moments([one[name] for one in own]) for name in own[0]}
    return found


def _moments(curves: Sequence[Sequence[float | None]]) -> dict[str, list[float | None]]:
    """Mean and variance over samples of curves [N][L]; None where nothing is known."""
    values = np.array(curves, dtype=float)
    known = ~np.isnan(values)
    count = known.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, values, 0.0).sum(0) / count
        variance = np.where(known, (values - mean) ** 2, 0.0).sum(0) / np.where(count > 1, count - 1, np.nan)
    return {"mean": _plain(mean), "variance": _plain(variance)}


def _plain(values: Any) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
