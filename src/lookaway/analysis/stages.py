"""Stages of a decoder, found instead of drawn by eye: change points of the attention-flow curves.

The criterion: the curves (visual self, cross, text self; heads merged by maximum), each made to mean 0 and variance 1
over layers, are cut into P runs of layers so that the squared distance to each run's mean is least. That is exact
dynamic programming. P = 3 is what DyVTE (arXiv 2411.19628) claims: early fusion, intra-modality, multimodal reasoning.
Beside it stands the P that the Bayesian information criterion chooses, so a reader sees whether three are there at all.
Intervals come from cutting again after drawing the samples anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import DataError
from .intervals import draws_of

__all__ = ["CURVES", "NAMES", "Cut", "best_cut", "choose_parts", "stage_table"]

Floats = NDArray[np.float64]
CURVES = ("visual_self", "cross", "text_self")
NAMES = ("early fusion", "intra-modality", "multimodal reasoning")
MOST = 5
"""Most runs that the information criterion is asked about."""
FLOOR = 1e-3
"""Mean squared distance below which a cut is called perfect: curves are only known so well."""


@dataclass(frozen=True)
class Cut:
    """Curves cut into runs of layers."""

    changes: tuple[int, ...]
    """First layer of each run but the first."""
    distance: float
    """Sum of squared distances to the runs' means, over layers and curves."""


def best_cut(curves: Floats, parts: int, shortest: int = 1) -> Cut:
    """The exact best cut of curves [C, L] into `parts` runs of at least `shortest` layers.

    Raises:
        DataError: so many runs do not fit.
    """
    depth = curves.shape[1]
    if parts < 1 or shortest < 1 or parts * shortest > depth:
        raise DataError(f"{depth} layers cannot be cut into {parts} runs of at least {shortest}.")
    cost = _costs(curves, shortest)  # [L + 1, L + 1]
    best, choice = cost[0].copy(), []
    for _ in range(parts - 1):
        total = best[:, None] + cost
        choice.append(total.argmin(0))
        best = total.min(0)
    changes, stop = [], depth
    for chosen in reversed(choice):
        stop = int(chosen[stop])
        changes.append(stop)
    return Cut(tuple(reversed(changes)), float(best[depth]))


def choose_parts(curves: Floats, shortest: int = 1, most: int = MOST) -> int:
    """How many runs the Bayesian information criterion wants: each costs its means and its change point."""
    count, depth = curves.size, curves.shape[1]
    scores = []
    for parts in range(1, min(most, depth // shortest) + 1):
        distance = best_cut(curves, parts, shortest).distance
        knobs = parts * len(curves) + parts - 1
        scores.append(count * np.log(max(distance / count, FLOOR)) + knobs * np.log(count))
    return int(np.argmin(scores)) + 1


def stage_table(
    records: Sequence[dict[str, Any]], merge: str = "max", draws: int = 500, seed: int = 0
) -> dict[str, Any] | None:
    """The three stages of the mean curves, with what speaks for and against them; None for fewer than six layers.

    Returns:
        `changes` (first layers of stages 2 and 3), `low`, `high` (95 % bootstrap intervals of both), `means` (curve ->
        mean of each stage, as measured), `pattern` (cross attention falls into stage 2 and rises again into stage 3, as
        published), `pattern_share` (share of draws in which it does), `parts` (what the information criterion chooses)
        and `parts_share` (number of parts -> share of draws).
    """
    curves = np.array(
        [[record["flow"][merge][name] for name in CURVES] for record in records], dtype=float
    )  # [N, C, L]
    depth = curves.shape[2]
    if depth < 6:
        return None
    shortest = 2 if depth >= 12 else 1
    mean = curves.mean(0)
    cut = best_cut(_standard(mean), 3, shortest)
    drawn = [curves[chosen].mean(0) for chosen in draws_of(len(records), draws, seed)]
    cuts = [best_cut(_standard(one), 3, shortest) for one in drawn]
    ends = np.array([one.changes for one in cuts])
    chosen = Counter(choose_parts(_standard(one), shortest) for one in drawn)
    low, high = np.percentile(ends, [2.5, 97.5], axis=0, method="nearest")
    patterns = [_pattern(_levels(one, found)[CURVES.index("cross")]) for one, found in zip(drawn, cuts, strict=True)]
    levels = _levels(mean, cut)
    return {
        "samples": len(records),
        "merge": merge,
        "curves": list(CURVES),
        "names": list(NAMES),
        "shortest": shortest,
        "changes": list(cut.changes),
        "low": low.astype(int).tolist(),
        "high": high.astype(int).tolist(),
        "means": {name: level.tolist() for name, level in zip(CURVES, levels, strict=True)},
        "pattern": _pattern(levels[CURVES.index("cross")]),
        "pattern_share": float(np.mean(patterns)),
        "parts": choose_parts(_standard(mean), shortest),
        "parts_share": {str(parts): count / draws for parts, count in sorted(chosen.items())},
    }


def _standard(curves: Floats) -> Floats:
    """Each curve [L] to mean 0 and variance 1; flat curves to 0."""
    spread = curves.std(1, keepdims=True)
    return np.asarray((curves - curves.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1.0))


def _costs(curves: Floats, shortest: int) -> Floats:
    """Squared distance of layers i .. j - 1 to their mean, for all i, j; infinite where that run is too short."""
    depth = curves.shape[1]
    sums = np.concatenate([np.zeros((len(curves), 1)), curves.cumsum(1)], 1)
    squares = np.concatenate([np.zeros((len(curves), 1)), (curves**2).cumsum(1)], 1)
    length = np.arange(depth + 1)[None] - np.arange(depth + 1)[:, None]  # [i, j]: j - i
    total, square = (part[:, None, :] - part[:, :, None] for part in (sums, squares))
    cost = (square - total**2 / np.maximum(length, 1)).sum(0)
    return np.where(length >= shortest, np.maximum(cost, 0.0), np.inf)


def _levels(curves: Floats, cut: Cut) -> Floats:
    """Mean of each run, [C, parts]."""
    return np.stack([run.mean(1) for run in np.split(curves, cut.changes, axis=1)], 1)


def _pattern(cross: Floats) -> bool:
    return bool(cross[0] > cross[1] < cross[2])
