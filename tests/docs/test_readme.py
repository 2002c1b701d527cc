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
    script = runpy.run_path(str(ROOT / "benchmarks" / "readme_table.py"))
    found, text = script["tables"](), read("README.md")
    assert script["MARKS"].sub(lambda m: m[1] + found[m[2]] + m[3], text) == text, "readme_table.py --write"
    assert {m[2] for m in script["MARKS"].finditer(text)} == set(found)


def test_the_table_of_fits_comes_from_the_records_of_a_fit(tmp_path):
    """Records as `lookaway fit` leaves them, moved to benchmarks/results/fit-*."""
    from lookaway.core.record import RecordWriter, write_records

    script = runpy.run_path(str(ROOT / "benchmarks" / "readme_table.py"))
    folder = tmp_path / "fit-made-up"
    with RecordWriter(folder / "records.jsonl") as writer:
        policy = {"name": "keep-schedule", "config": {"keep": [1.0, 0.4, 0.4]}}
        writer.write("fit", certificate={"bound": 0.0293}, policy=policy)
    with RecordWriter(folder / "held-out.jsonl") as writer:
        writer.write("run", model="lookaway-made-up", data="mini", provenance={"samples": {"digest": "some"}})
        for name, right, spent in (("this policy", 3, 40), ("random tokens", 2, 41)):
            for number in range(4):
                sample = {"id": str(number), "visual_tokens": [9, 4, 4], "flops": spent, "full_flops": 100}
                said = {"right_with": number < right, "right_without": True, "agree": number < right}
                writer.write("sample", variant=name, **sample, **said)
            writer.write("beside", name=name)
    lines = script["tables"](tmp_path)["fit"].splitlines()
    assert len(lines) == 5
    assert "| lookaway-made-up, mini | none | 100 % | 4 of 4" in lines[2]
    assert (
        "keep 40 % of the visual tokens from layer 1 on (certified: at most 2.93 % change) | 40.0 % | 3 of 4"
        in lines[3]
    )
    assert "| random tokens | 41.0 % | 2 of 4" in lines[4]
    board = tmp_path / "board-made-up" / "exit-gates.jsonl"
    summary = {"family": "all", "samples": 4, "scored": 4, "accuracy_with": 0.75, "agreement": (0.5, 0.1, 0.9),
               "flops_share": 0.625}  # fmt: skip

    def board_of(questions):
        run = {"provenance": {"samples": {"digest": questions}}}
        write_records(board, [("run", run), ("summary", {"rows": [summary]})])

    board_of("some")
    lines = script["tables"](tmp_path)["fit"].splitlines()
    assert len(lines) == 6
    assert "| **exit gates** | 62.5 % | 3 of 4" in lines[4]
    assert "| 2 of 4" in lines[4]
    board_of("other")
    with pytest.raises(SystemExit, match="other questions than the fit"):
        script["tables"](tmp_path)
    board.unlink()
    with RecordWriter(folder / "held-out.jsonl") as writer:  # an interrupted run
        writer.write("sample", variant="this policy", id="5", visual_tokens=[9], right_without=True)
    with pytest.raises(SystemExit, match="different questions"):
        script["tables"](tmp_path)


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
    assert len(read("README.md").splitlines()) <= 130
