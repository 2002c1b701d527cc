"""Means over samples with bootstrap intervals, for curves of any shape. Pure functions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["bootstrap", "draws_of", "mean_interval"]

Floats = NDArray[np.float64]
DRAWS = 1000
CONFIDENCE = 0.95


def draws_of(count: int, draws: int = DRAWS, seed: int = 0) -> NDArray[np.int64]:
    """Samples drawn with replacement, int64 [draws, count]; the same for the same seed."""
    return np.random.default_rng(seed).integers(0, count, (draws, count))


def bootstrap(
    values: Floats, statistic: Callable[[Floats], Floats], draws: int = DRAWS, seed: int = 0
) -> tuple[Floats, Floats]:
    """95 % percentile interval of a statistic of the samples.

    Args:
        values: [N, ...], one entry a sample.
        statistic: of N samples; may be NaN, such draws do not count.

    Returns:
        (low, high), each shaped like the statistic; NaN where no draw counts.
    """
    found = np.stack(
        [np.asarray(statistic(values[chosen]), dtype=float) for chosen in draws_of(len(values), draws, seed)]
    )
    return _percentiles(found)


def mean_interval(values: Floats, draws: int = DRAWS, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """Mean over samples [N, ...] and its 95 % bootstrap interval: (mean, low, high), NaN entries left out."""
    values = np.asarray(values, dtype=float)
    known = ~np.isnan(values)
    flat, counted = np.where(known, values, 0.0).reshape(len(values), -1), known.reshape(len(values), -1).astype(float)
    weights = np.stack([np.bincount(chosen, minlength=len(values)) for chosen in draws_of(len(values), draws, seed)])
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (weights @ flat) / (weights @ counted)  # [draws, ...]
        mean = flat.sum(0) / counted.sum(0)
    low, high = _percentiles(means)
    shape = values.shape[1:]
    return mean.reshape(shape), low.reshape(shape), high.reshape(shape)


def _percentiles(found: Floats) -> tuple[Floats, Floats]:
    tail = 100 * (1 - CONFIDENCE) / 2
    with np.errstate(invalid="ignore"):
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # all NaN
            low, high = np.nanpercentile(found, [tail, 100 - tail], axis=0)
    return low, high
