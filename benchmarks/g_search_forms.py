"""G-Search's published form against bisection, on a made-up objective whose best schedule is known.

    python benchmarks/g_search_forms.py

Layer i needs a known number of tokens, and each one that it lacks costs effectiveness. Printed: the largest distance
of a layer's count from the best one, and the extra share of FLOPs, by number of visual tokens. No model runs.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from lookaway.search.schedules.g_search import GSearchOptions, g_search
from lookaway.search.trials.queue import TrialQueue

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "search"))
from toy_evaluator import Needs

DEPTH, REPEATS = 6, 4
FORMS = {
    "bisection": GSearchOptions(tolerance=0.0, resolution=0.001),
    "bayes, lambda .05": GSearchOptions(form="bayes", tolerance=0.0, efficiency_weight=0.05),
    "bayes, lambda searched (default)": GSearchOptions(form="bayes", tolerance=0.0),
}


def problem(units: int, seed: int) -> Needs:
    draw = random.Random(seed)
    needs = sorted((draw.randint(1, units) for _ in range(DEPTH - 2)), reverse=True)
    return Needs((units, units, *needs), units=units, price=0.4 / units)


def main() -> None:
    print("| visual tokens | form | exact | tokens off, at most | FLOPs too many (points) | trials |")
    print("|---|---|---|---|---|---|")
    for units in (8, 64, 196):
        for name, options in FORMS.items():
            exact, off, extra, trials = 0, [], [], []
            for seed in range(REPEATS):
                evaluator = problem(units, seed)
                found = g_search(evaluator, TrialQueue("memory", "t", seed), options)
                counts, best = found.schedule.counts, evaluator.needs
                exact += counts == best
                off.append(max(abs(a - b) for a, b in zip(counts, best, strict=True)))
                extra.append(100 * (evaluator.workload.share(counts) - evaluator.workload.share(best)))
                trials.append(found.trials)
            cells = [f"{exact} of {REPEATS}", f"{min(off)} to {max(off)}", f"{min(extra):.1f} to {max(extra):.1f}"]
            print(f"| {units} | {name} | {' | '.join(cells)} | {min(trials)} to {max(trials)} |", flush=True)


if __name__ == "__main__":
    main()
