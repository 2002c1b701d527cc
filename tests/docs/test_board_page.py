"""docs/board.html is drawn from the committed records, and holds our policies on both default models."""

import re
import runpy

from documents import ROOT, read


def test_the_page_is_that_of_the_records(tmp_path):
    board = runpy.run_path(str(ROOT / "benchmarks" / "board.py"))
    drawn = board["draw"](tmp_path / "board.html").read_text(encoding="utf-8")
    assert drawn == read("docs/board.html"), "python benchmarks/board.py"
    for model in board["MODELS"]:
        assert re.search(rf'<section data-model="{model} \[', drawn)
    for method in ("random tokens", "uniform tokens", "second-look"):
        assert drawn.count(f'data-method="{method}"') >= 2
    assert "160 questions about 160 different pictures" in drawn


def test_a_user_s_folder_is_taken(tmp_path):
    """The place for users' records: a folder there, and nothing else, adds rows."""
    import shutil

    board = runpy.run_path(str(ROOT / "benchmarks" / "board.py"))
    own = board["folders"]()
    place = tmp_path / "contributed" / "someone-mini"
    place.mkdir(parents=True)
    shutil.copy(ROOT / "benchmarks" / "results" / "fit-plain" / "held-out.jsonl", place / "held-out.jsonl")
    board["folders"].__globals__["RESULTS"] = tmp_path
    assert board["folders"]() == [place]
    assert own == sorted(own)
    assert "someone-mini" in board["draw"](tmp_path / "board.html").read_text(encoding="utf-8")
