"""P-Sigmoid's search against as many random schedules, where the best schedule is one step, on a made-up objective.

    python benchmarks/p_sigmoid_on_steps.py

The objective falls with the distance to the best schedule. No model runs; a minute on one core.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lookaway.search.schedules import schedule_shapes as shapes
from lookaway.search.schedules.budget import Budget, solve
from lookaway.search.schedules.p_sigmoid import PSigmoidOptions, p_sigmoid
from lookaway.search.schedules.shape_search import random_search
from lookaway.search.trials.queue import TrialQueue

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "search"))
from toy_evaluator import Near

LAYERS, UNITS, TRIALS, REPEATS = 16, 400, 15, 5


def main() -> None:
    print("| the best schedule's step is before layer | budget | P-Sigmoid wins |")
    print("|---|---|---|")
    for layer, share in ((2, 0.3), (2, 0.5), (4, 0.5), (8, 0.7), (12, 0.85)):
        wins = 0
        for seed in range(REPEATS):
            evaluator = Near([1.0] * LAYERS, UNITS)
            budget = Budget(share, "flops", evaluator.workload, evaluator.span)
            evaluator.rates = solve(shapes.single_layer(evaluator.span, layer), budget).rates
            queue = TrialQueue("memory", "t", seed)
            sigmoid = p_sigmoid(evaluator, queue, budget, PSigmoidOptions(trials=TRIALS)).verdict.effectiveness
            chance = random_search(evaluator, queue, budget, TRIALS).verdict.effectiveness
            wins += sigmoid > chance
        print(f"| {layer} | {share:.0%} | {wins} of {REPEATS} |")


if __name__ == "__main__":
    main()
