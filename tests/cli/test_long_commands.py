"""Every long command says at its start what it runs on and in which batches, and shows how far it is."""

import json
import re
import shutil

import pytest

from lookaway.cli import progress
from lookaway.cli.app import COMMANDS

SETTINGS = r"^runs on cpu, \d+ CPU threads?, float32, (batches of \d+ \(--[a-z-]+\)|one sample at a time)$"
SMALL = ("--ranking", "uniform", "--random-trials", 1, "--max-new-tokens", 2)
LONG = {
    "train": ("--width", 4, "--epochs", 2, "--max-new-tokens", 2, "--target", "own", "--cache", "OUT/cache"),
    "train --method eas": ("--skip", 1, "--width", 2, "--max-steps", 2),
    "calibrate": ("--policy", "GATES", "--max-new-tokens", 2, "--epsilon", 0.9, "--cache", "OUT/cache"),
    "eval": ("--exit-at", 2, "--max-new-tokens", 2),
    "search --method random": (*SMALL, "--trials", 2, "--budget", 0.9),
    "search --method g-search": (*SMALL, "--tolerance", 0.5, "--resolution", 0.5, "--stride", 2),
    "search --method vtw": ("--threshold", 1e3),
    "search --method shortv": ("--count", 1),
    "search --method eas": ("--no-train", "--no-compare", "--steps", 2, "--skip", 1, "--subsets", 2),
    "search --compare": (*SMALL, "--budgets", 0.95, "--methods", "linear", "--trials", 1, "--test-data", "TEST",
                         "--test-split", "all"),
    "fit": ("--methods", "exit", "--epsilon", 0.9, "--max-new-tokens", 2),
    "analyze": ("--limit", 2, "--max-new-tokens", 2),
    "bench": ("--exits", 2, "--repeats", 1, "--new-tokens", 2),
    "tune": ("--max-steps", 2, "--rank", 2),
}  # fmt: skip
"""Command line -> what makes it short. All run on the tiny model with questions of a user's own."""
ELSEWHERE = {
    "demo": "train, calibrate, eval and bench, one after the other",
    "align": "trains the default model for hours; its settings line is tested below",
    "prepare": "downloads; covered by `at_work`",
    "convert": "reads and writes files; tests/cli/test_published.py runs it",
    "serve": "runs until it is stopped; tests/cli/test_serve.py",
}
SHORT = {"ask", "ceiling", "doctor", "report", "policies", "env"}
WHOLE = ("bench",)
"""Commands that take no split."""


def test_every_command_is_long_or_short():
    assert {name.split()[0] for name in LONG} | set(ELSEWHERE) | SHORT == set(COMMANDS)


@pytest.fixture(scope="module")
def places(tmp_path_factory, model_folder, data_file):
    import lookaway as la
    from lookaway.models.loading import load_model

    folder = tmp_path_factory.mktemp("long")
    entries = json.loads(data_file.read_text())
    for entry in entries:
        shutil.copy(data_file.parent / entry["image"], folder / entry["image"])  # splits go by the names in the file
    (folder / "search.json").write_text(json.dumps(entries[:24]))
    (folder / "test.json").write_text(json.dumps(entries[24:28]))
    (folder / "fit.json").write_text(json.dumps(entries))
    anatomy = la.anatomy(load_model(model_folder)[0])
    gates = la.VisualExit(la.ExitGates(anatomy.shape.hidden_size, (1, 2, 3), width=4), base=anatomy.identity)
    gates.save_pretrained(folder / "gates")
    return folder


@pytest.mark.parametrize("name", LONG)
def test_a_long_command_says_its_settings_and_how_far_it_is(name, places, model_folder, call, tmp_path):
    known = {"GATES": places / "gates", "TEST": places / "test.json", "OUT/cache": tmp_path / "cache"}
    data = places / ("fit.json" if name == "fit" else "search.json")
    split = () if name.startswith("fit") or name in WHOLE else ("--split", "all")
    status, _, error = call(
        *name.split(), "--model", model_folder, "--data", data, *split, "--out", tmp_path / "out",
        *(known.get(part, part) for part in LONG[name]),
    )  # fmt: skip
    assert status == 0 or (name == "fit" and "No policy passed" in error), error  # random weights keep no answer
    lines = error.splitlines()
    settings = [place for place, line in enumerate(lines) if re.match(SETTINGS, line)]
    assert len(settings) == 1, lines
    done = [place for place, line in enumerate(lines) if re.search(r": (\d+) of \1, \d+ s, \S+ a second$", line)]
    assert done, lines
    assert settings[0] < done[0]
    begun = [line.rsplit(":", 1)[0] for line in lines if re.search(r": 0 of \d+$", line)]
    ended = [lines[place].rsplit(":", 1)[0] for place in done]
    assert [words for words in begun if words not in ended] == [], lines  # no bar ends before it is full


def test_the_recipe_of_the_default_model_says_its_settings_too(monkeypatch, capsys, tmp_path):
    from lookaway.cli import align
    from lookaway.training.default_model import recipe

    monkeypatch.setattr(recipe, "make_mini", lambda options, out, say: {})
    align.run(align.Options(out=tmp_path))
    assert re.match(SETTINGS, capsys.readouterr().err.splitlines()[0])


def test_any_command_is_watched_over(monkeypatch, call):
    watched = []
    monkeypatch.setattr(progress._lines, "begin", lambda words, *_, **__: watched.append(words))
    monkeypatch.setattr(progress._lines, "end", lambda steps: None)
    assert call("policies")[0] == 0
    assert watched == ["lookaway policies"]
