"""How often 95 % intervals of a retention cover the true one: ours beside three bootstraps, on simulated answers.

    python benchmarks/interval_coverage.py

Prints the table of docs/measuring.md. No model is needed; a minute on one core.
"""

from __future__ import annotations

import warnings
from collections import defaultdict

import numpy as np
from scipy import stats

from lookaway.evaluation.statistics import retention

CASES = (
    # images, questions an image, share that has its image's luck, right without, kept, gained
    (29, 1, 0.0, 0.7, 0.90, 0.10),
    (29, 1, 0.0, 0.7, 0.98, 0.05),
    (200, 1, 0.0, 0.7, 0.98, 0.03),
    (500, 1, 0.0, 0.8, 0.97, 0.06),
    (29, 4, 0.7, 0.7, 0.95, 0.05),
)
REPEATS, DRAWS = 400, 1000


def ratio(top: np.ndarray, bottom: np.ndarray, axis: int = -1) -> np.ndarray:
    return top.sum(axis) / bottom.sum(axis)


def studentised(top: np.ndarray, bottom: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """The bootstrap of (ratio - its value) / its linearised standard error."""

    def error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        residuals = a - ratio(a, b)[..., None] * b
        return np.sqrt((residuals**2).sum(-1) / (len(top) * (len(top) - 1))) / b.mean(-1)

    places = rng.integers(0, len(top), (DRAWS, len(top)))
    value = ratio(top, bottom)
    with np.errstate(all="ignore"):
        found = (ratio(top[places], bottom[places]) - value) / error(top[places], bottom[places])
    found = found[np.isfinite(found)]
    if len(found) < 10:
        return float(value), float(value)
    low, high = np.percentile(found, [2.5, 97.5])
    return float(value - high * error(top, bottom)), float(value - low * error(top, bottom))


def main() -> None:
    warnings.filterwarnings("ignore")  # scipy warns of every degenerate draw, which is what is counted here
    for images, each, together, right, kept, gained in CASES:
        rng, covered = np.random.default_rng(0), defaultdict(int)
        true = (right * kept + (1 - right) * gained) / right
        names = [image for image in range(images) for _ in range(each)]
        for _ in range(REPEATS):
            luck = [
                np.where(rng.random((images, each)) < together, rng.random((images, 1)), rng.random((images, each)))
                for _ in range(2)
            ]
            without = luck[0] < right
            answers = np.where(without, luck[1] < kept, luck[1] < gained)
            top, bottom = answers.sum(1).astype(float), without.sum(1).astype(float)
            intervals = {"ours": retention(answers.ravel(), without.ravel(), names)[1:]}
            for method in ("percentile", "BCa"):
                found = stats.bootstrap(
                    (top, bottom), ratio, paired=True, vectorized=True, n_resamples=DRAWS, method=method, rng=rng
                ).confidence_interval
                intervals[method] = found if np.isfinite(found.low) else (ratio(top, bottom),) * 2
            intervals["studentised"] = studentised(top, bottom, rng)
            for name, (low, high) in intervals.items():
                covered[name] += low - 1e-9 <= true <= high + 1e-9
        row = "  ".join(f"{name} {count / REPEATS:.2f}" for name, count in covered.items())
        print(f"{images:4d} images x {each}, kept {kept:.2f}, gained {gained:.2f}:  {row}")


if __name__ == "__main__":
    main()
