"""README: its code runs as it stands and prints what it says; its table and its picture come from their sources."""

import json
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO

import pytest
from documents import ROOT, blocks, read


@pytest.mark.slow
def test_the_snippet_runs_and_prints_what_it_says(tmp_path):
    (code,) = blocks("README.md", "python")
    (tmp_path / "snippet.py").write_text(code)
    printed = StringIO()
    with redirect_stdout(printed):
        runpy.run_path(str(tmp_path / "snippet.py"))
    answer, layers, share = printed.getvalue().strip().splitlines()
    said = re.findall(r"^print\(.*\)  # (.+)$", code, re.MULTILINE)
    assert answer == said[0]
    pattern = ", ".join(r"[\d, ]*" if part == "..." else part for part in said[1].split(", "))
    assert re.fullmatch(rf"\[{pattern}\]", layers), layers
    assert share == said[2]


def test_the_table_of_results_is_that_of_the_records():
    pytest.importorskip("scipy")
    table = runpy.run_path(str(ROOT / "benchmarks" / "readme_table.py"))["table"]()
    assert table in read("README.md"), "python benchmarks/readme_table.py --write"


def test_the_speeds_are_those_of_the_records():
    text = " ".join(read("README.md").split())
    said = re.findall(r"([\d.]+) × (?:for a fixed exit )?before layer (\d+)", text)
    stated = {int(layer): float(speed) for speed, layer in said}
    assert set(stated) == {4, 8, 15, 22}
    with (ROOT / "benchmarks/results/demo-exit-aware/bench.jsonl").open() as file:
        records = [json.loads(line) for line in file]
    for record in records:
        if record["kind"] == "timing" and record["part"] == "decoder" and record["variant"].startswith("exit at"):
            assert round(record["speedup"], 1) == stated.pop(int(record["variant"].split()[-1]))
    assert not stated


def test_the_diagram_is_drawn_by_its_script():
    script = [sys.executable, ROOT / "dev" / "tokens_diagram.py"]
    drawn = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    assert drawn == read("docs/images/tokens-leaving.svg"), "python dev/tokens_diagram.py > docs/images/..."


def test_it_is_short():
    assert len(read("README.md").splitlines()) <= 120
