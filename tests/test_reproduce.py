"""configs/paper: every experiment loads, its commands are valid, and it runs from end to end on a tiny random model."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import reproduce  # noqa: E402

EXPERIMENTS = {path.stem: reproduce.load(path) for path in sorted((ROOT / "configs" / "paper").glob("*.yaml"))}
PAIRS = [(name, model) for name, found in EXPERIMENTS.items() for model in found["models"]]


@pytest.mark.parametrize(("name", "model"), PAIRS)
def test_every_command_takes_its_options(name, model, monkeypatch):
    """The command line is parsed as it stands; only the job itself is left out."""
    from lookaway.cli.app import chosen_method
    from lookaway.cli.options import build_command

    monkeypatch.chdir(ROOT)
    for command, *arguments in reproduce.steps(EXPERIMENTS[name], model, "DATA", "OUT"):
        module = importlib.import_module(f"lookaway.cli.{command}")
        methods = getattr(module, "METHODS", {})
        module = importlib.import_module(methods.get(chosen_method(arguments), f"lookaway.cli.{command}"))
        taken = []
        cli = build_command(command, module.Options, taken.append, lambda values, path: None)
        cli.main(arguments, standalone_mode=False)
        ids = (EXPERIMENTS[name]["models"][model]["id"], EXPERIMENTS[name].get("source"))
        assert taken[0].model in ids


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_an_experiment_needs_is_said(name):
    experiment = EXPERIMENTS[name]
    assert set(experiment["published"]) == set(experiment["models"])
    assert all(isinstance(text, str) for text in experiment["data"].values())
    for model in experiment["models"].values():
        assert reproduce.memory_gb(model) > 2 * model["billions"]
        assert 0 < reproduce.hours(experiment, model, "80GB") < 200


def test_a_card_lists_what_fits_it():
    small, large = reproduce.table("24GB"), reproduce.table("141GB")
    assert "llava-1.5-7b" in small
    assert "llava-1.5-13b" not in small
    assert len(large.splitlines()) == len(PAIRS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Every file that an experiment names, with made-up questions."""
    folder, draw = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    (folder / "scienceqa").mkdir()
    entries, problems = [], {}
    for number in range(8):
        pixels = draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        for place in (folder / f"{number}.png", *(folder / "scienceqa" / "images" / part / str(number) / "image.png"
                                                  for part in ("train", "test"))):  # fmt: skip
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place)
        entries.append({"id": str(number), "image": f"{number}.png", "question": f"what is {number}?", "answer": "ab"})
        problems[str(number)] = {"question": "a?", "choices": ["x", "y"], "answer": 0, "image": "image.png"}
    for name in ("llava_1_percent.json", "search.json"):
        (folder / name).write_text(json.dumps(entries))
    (folder / "scienceqa" / "problems.json").write_text(json.dumps(problems))
    (folder / "scienceqa" / "pid_splits.json").write_text(json.dumps({"train": list(problems), "test": list(problems)}))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from lookaway.anatomy.tiny import tiny
    from lookaway.anatomy.tiny.processor import tiny_processor

    folder = tmp_path_factory.mktemp("weights")
    tiny("llava", num_layers=32).model.save_pretrained(folder / "deep")
    tiny("llava").model.save_pretrained(folder / "shallow")
    for name in ("deep", "shallow"):
        tiny_processor().save_pretrained(folder / name)
    return folder


def shortened(arguments, data):
    """The same command for eight questions: benchmarks become a file here, twenty epochs one."""
    swaps = {
        "--tasks": ["--data", str(data / "search.json"), "--split", "all", "--no-curve"],
        "--limit": ["--limit", "8"],
    }
    short, rest = [], iter(arguments)
    for argument in rest:
        short += swaps.get(argument, [argument])
        if argument in swaps:
            next(rest)
    more = {
        "train": ["--max-new-tokens", "2"] if "eas-published" not in " ".join(arguments) else ["--epochs", "1"],
        "search": ["--random-trials", "2", "--max-new-tokens", "2"],
        "eval": ["--max-new-tokens", "2", "--score", "agreement"],
    }
    return [*short, *more[arguments[0]], "--device", "cpu"]


def status_of(main):
    try:
        main()
    except SystemExit as stopped:
        return stopped.code or 0
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_runs_from_end_to_end(name, data, weights, tmp_path, monkeypatch):
    from lookaway.cli import app

    monkeypatch.chdir(ROOT)
    experiment = EXPERIMENTS[name]
    deep = name.startswith(("eas", "p-sigmoid"))  # layers 20 to 31 are named; 17 % is less than two of four layers take
    folder = weights / ("deep" if deep else "shallow")
    model = next(iter(experiment["models"]))
    for arguments in reproduce.steps(experiment, model, str(data), str(tmp_path), str(folder)):
        monkeypatch.setattr(sys, "argv", ["lookaway", *shortened(arguments, data)])
        assert status_of(app.main) == 0, arguments
    assert list(tmp_path.rglob("report.html"))
