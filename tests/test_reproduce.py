"""configs/paper: every experiment loads, its commands are valid, and it runs from end to end on a tiny random model of
each family that it names: LLaVA and LaVIN in this package's own form, VILA, Eagle and InternVL as published."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from lookaway.anatomy.tiny import IMAGE, tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.core.record import read_records
from lookaway.models.lavin.processor import LavinProcessor, lavin_image_processor
from lookaway.models.tiny_models import tiny_lavin

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


def test_folders_with_spaces_stay_one_argument_and_a_missing_file_is_named(monkeypatch, capsys):
    train, evaluate = reproduce.steps(
        EXPERIMENTS["dyvte-tables-1-2"], "llava-1.5-7b", "my data", "my out", "my weights"
    )
    assert train[train.index("--data") + 1] == "my data/llava_1_percent.json"
    assert evaluate[evaluate.index("--model") + 1] == "my weights"
    assert evaluate[evaluate.index("--out") + 1] == "my out/eval"
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "configs/paper/none.yaml"])
    with pytest.raises(SystemExit) as stopped:
        reproduce.main()
    assert stopped.value.code == 2
    assert "no experiment configs/paper/none.yaml; there are" in capsys.readouterr().err


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


GOLDEN = ROOT / "tests" / "models" / "golden"
DEPTHS = {"eas": 32, "p-sigmoid": 16}
"""Experiments that need more layers than tiny models have: one names layers 20 to 31, the other keeps 17 %."""


@pytest.fixture(scope="module")
def weights_of(tmp_path_factory):
    """`tiny` of an experiment's model, number of layers (None: as it is) -> a folder."""

    @cache
    def make(name, depth):
        folder = tmp_path_factory.mktemp(name)
        if name == "llava":
            tiny(name, num_layers=depth or 4).model.save_pretrained(folder)
            tiny_processor().save_pretrained(folder)
        elif name == "lavin":
            model = tiny_lavin(num_layers=depth or 4, image_token_id=IMAGE)
            model.save_pretrained(folder)
            seen = model.config.image_seq_length
            processor = LavinProcessor(lavin_image_processor(16), tiny_processor().tokenizer, image_seq_length=seen)
            processor.save_pretrained(folder)
        else:
            deepened(GOLDEN / name / "checkpoint", folder, depth)
        return folder

    return make


def deepened(source, folder, depth):
    """A published checkpoint of three layers as one of `depth`, in which layer i is its layer i % 3."""
    for place in (source, GOLDEN / "towers"):  # towers that are only named lie inside the model's folder
        shutil.copytree(place, folder, dirs_exist_ok=True)
    if depth is None:
        return
    weights = {}
    for file in folder.glob("*.safetensors"):
        weights |= load_file(file)
        file.unlink()
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    layer = re.compile(r"^(language_model\.model\.layers\.)(\d+)(\..*)$")
    parts = {match: value for name, value in weights.items() if (match := layer.match(name))}
    assert {int(match[2]) for match in parts} == {0, 1, 2}
    deep = {f"{m[1]}{i}{m[3]}": v.clone() for m, v in parts.items() for i in range(int(m[2]), depth, 3)}
    save_file({**weights, **deep}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["llm_config"]["num_hidden_layers"] = depth
    (folder / "config.json").write_text(json.dumps(config))


def shortened(arguments, data, count):
    """The same command for a few questions: benchmarks become a file here, twenty epochs one."""
    swaps = {
        "--tasks": ["--data", str(data / "search.json"), "--split", "all", "--no-curve", "--limit", str(count)],
        "--limit": ["--limit", str(count)],
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
    trials = ["--trials", "3"] if "p-sigmoid" in arguments else []
    return [*short, *more[arguments[0]], *(trials if arguments[0] == "search" else []), "--device", "cpu"]


def status_of(main):
    try:
        main()
    except SystemExit as stopped:
        return stopped.code or 0
    return 0


ONE_SIZE = ("VILA-7b", "Eagle-X5-7B", "InternVL-Chat-ViT-6B-Vicuna-7B")
"""Published checkpoints whose tiny form gives a picture as many visual tokens as the large one."""
FAMILIES = list(
    {(name, EXPERIMENTS[name]["models"][model]["tiny"]): (name, model) for name, model in PAIRS[::-1]}.values()
)
"""Of an experiment's models of one form (LLaVA-1.5-7B and 13B) the first."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model"), sorted(FAMILIES))
def test_an_experiment_runs_from_end_to_end(name, model, data, weights_of, tmp_path, monkeypatch):
    from lookaway.cli import app

    monkeypatch.chdir(ROOT)
    experiment = EXPERIMENTS[name]
    count = 2 if "eagle" in model else 4  # its pictures have 1024 x 1024 pixels and five towers
    depth = next((layers for start, layers in DEPTHS.items() if name.startswith(start)), None)
    folder = weights_of(experiment["models"][model]["tiny"], depth)
    source = weights_of("llava-v1.5-7b", None) if "source" in experiment else None
    for arguments in reproduce.steps(experiment, model, str(data), str(tmp_path), str(folder), str(source)):
        monkeypatch.setattr(sys, "argv", ["lookaway", *shortened(arguments, data, count)])
        assert status_of(app.main) == 0, arguments
    assert list(tmp_path.rglob("report.html"))
    if experiment["models"][model]["tiny"] in ONE_SIZE:  # the hours of a table hang on it
        (file, *_) = tmp_path.rglob("eval/records.jsonl")
        seen = {r["prompt_visual_tokens"] for r in read_records(file) if r["kind"] == "sample"}
        assert seen == {experiment["models"][model]["visual"]}


def test_every_model_has_a_tiny_one_of_its_own_form():
    own = {"llava-1.5-7b": "llava", "llava-1.5-13b": "llava", "lavin-7b": "lavin"}
    for name, model in PAIRS:
        found = EXPERIMENTS[name]["models"][model]
        published = found["id"].rsplit("/", 1)[1] if "/" in found["id"] else found["id"]
        wanted = {"InternVL2-8B": "InternVL2-2B"}.get(published, published)  # both InternLM2
        assert found["tiny"] == own.get(model, wanted)
        assert model in own or (GOLDEN / found["tiny"] / "checkpoint" / "config.json").exists()
