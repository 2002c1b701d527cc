"""What `benchmarks/ratios.py` warns of, on rows made up here: no time is measured."""

import runpy
from dataclasses import replace
from pathlib import Path

from lookaway.evaluation.speed import SpeedRow

warnings_of = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "ratios.py"))["warnings_of"]
ROW = SpeedRow("idle", "decoder", None, 0.1, (0.1, 0.1), 0.099, 0.99, (0.99, 0.99), 1.0, 1.0, 1.0,
               limit=0.05, baseline_limit=0.05)  # fmt: skip


def test_nothing_is_said_of_a_small_overhead_above_the_limit():
    assert warnings_of([ROW], 1.05) == []


def test_a_large_overhead_and_a_time_below_the_limit_are_named():
    (slow,) = warnings_of([replace(ROW, speedup=0.9)], 1.05)
    assert "attached and idle takes 1.111 of bare" in slow
    (fast,) = warnings_of([replace(ROW, seconds=0.04)], 1.05)
    assert "40.0 ms beats the limit of 50.0 ms" in fast
