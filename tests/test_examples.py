"""The examples run, and stay short."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_example_runs(path, capsys):
    assert len(path.read_text().splitlines()) <= 85
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_an_exception_of_the_generating_thread_reaches_whoever_reads_the_stream(capsys):
    """examples/service.py, whose stream would else wait for ever (docs/service.md)."""
    runpy.run_path(str(next(path for path in EXAMPLES if path.name == "service.py")), run_name="__main__")
    answers, streamed, error = capsys.readouterr().out.strip().splitlines()
    assert "'visual_tokens_left': [0, 0]" in answers  # before layer 2 all of the first row's left
    assert streamed.startswith("streamed: ")
    assert error.startswith("the reader gets it: ")
    assert "max_new_tokens" in error
