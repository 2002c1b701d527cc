"""How near the two forms of G-Search come to the best schedule, and at how many trials: a made-up evaluator, no model.

    python benchmarks/g_search_forms.py

A layer needs some number of visual tokens, and each that it lacks costs the same share of effectiveness; so the best
schedule within the tolerance is known. Needs are random staircases; the gap is in points of the prefill FLOPs.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "search"))

from toy_evaluator import Needs

from lookaway.search.schedules.g_search import GSearchOptions, g_search
from lookaway.search.trials.queue import TrialQueue

LAYERS, STAIRCASES = 8, 4


def staircase(seed: int, units: int) -> tuple[int, ...]:
    """Needs that fall from layer to layer at random; the first two layers keep everything."""
    draws = np.sort(np.random.default_rng(seed).integers(0, units + 1, LAYERS - 2))[::-1]
    return (units, units, *(int(n) for n in draws))


def main() -> None:
    forms = {
        "bisection": GSearchOptions(),
        "bayes, lambda 0.3": GSearchOptions(form="bayes", efficiency_weight=0.3),
        "bayes, lambda searched": GSearchOptions(form="bayes"),
    }
    for units in (64, 196):
        for name, options in forms.items():
            gaps, off, trials, start = [], [], [], time.perf_counter()
            for seed in range(STAIRCASES):
                needs = staircase(seed, units)
                evaluator = Needs(needs, units, price=2 / units)
                found = g_search(evaluator, TrialQueue("memory", "t"), options)
                best = evaluator.workload.share(needs)
                gaps.append(100 * (evaluator.workload.share(found.schedule.counts) - best))
                off.append(max(abs(a - b) for a, b in zip(found.schedule.counts, needs, strict=True)))
                trials.append(found.trials)
            print(
                f"{units + 1} counts  {name:24} exact {sum(o == 0 for o in off)} of {STAIRCASES}  "
                f"off by {min(off)} to {max(off)} tokens  FLOPs {min(gaps):+.2f} to {max(gaps):+.2f} points  "
                f"{np.mean(trials):.0f} trials  {time.perf_counter() - start:.0f} s"
            )


if __name__ == "__main__":
    main()
