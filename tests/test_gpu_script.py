"""`benchmarks/gpu.py` runs all its parts on a small shape; without a GPU it says what could not run."""

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_every_part_runs_on_a_small_shape_or_says_why_not(monkeypatch, tmp_path):
    run(monkeypatch, "--tiny", "--out", tmp_path / "gpu.json")
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["not_run"] == []
    assert [name for name, part in found["parts"].items() if "failed" in part] == []
    rows = found["parts"]["removal against masking, float32, sdpa"]["policies"]
    assert max(row["difference"] for row in rows.values()) < 1e-5
    assert found["parts"]["static cache"]["same tokens"]
    assert set(found["parts"]["waits for gates"]["prefill"]) == {"read_every=1", "read_every=2", "read_every=3"}
    assert {row["part"] for row in found["parts"]["llava-1.5-7b, batch of 1, sdpa"]["timings"]} == {
        "decoder", "first token", "decode",
    }  # fmt: skip
    assert found["run"]["versions"]["torch"]


def test_what_comes_after_the_time_is_listed_and_no_gpu_is_refused(monkeypatch, tmp_path):
    run(monkeypatch, "--tiny", "--minutes", 0, "--out", tmp_path / "gpu.json")
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["parts"] == {}
    assert "static cache" in found["not_run"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        run(monkeypatch, "--out", tmp_path / "gpu.json")
