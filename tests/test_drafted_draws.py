"""`benchmarks/drafted_draws.py`: its exact distribution is one, and its chi-square tells a wrong one from it."""

import json
import runpy
import sys
from collections import Counter
from pathlib import Path

import pytest

from lookaway.anatomy.tiny import tiny

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "drafted_draws.py"), run_name="draws")


def test_counts_are_held_against_all_answers_that_are_possible():
    made = tiny("llava")
    shares = SCRIPT["exact"](made.model, made.inputs())
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert len(shares) > 5
    right = Counter({answer: round(2000 * share) for answer, share in shares.items()})
    assert SCRIPT["fit_of"](right, shares)[2] > 0.99
    first, second = sorted(shares, key=shares.get)[-2:]
    wrong = Counter({**right, first: right[first] + 100, second: right[second] - 100})
    assert SCRIPT["fit_of"](wrong, shares)[2] < 0.01
    with pytest.raises(SystemExit, match="its probability is 0"):
        SCRIPT["fit_of"](Counter({(1, 1, 1): 1}), shares)


def test_runs_add_up(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["drafted_draws", "--draws", "2", "--out", str(tmp_path / "d.jsonl")])
    for runs in (1, 2):
        SCRIPT["main"]()
        said = capsys.readouterr().out.splitlines()
        assert [line.split(",")[0].rpartition(": ")[2] for line in said[-1:]] == [f"{2 * runs} draws"]
        rows = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()]
        assert len(rows) == runs * len(SCRIPT["DRAFTS"])
