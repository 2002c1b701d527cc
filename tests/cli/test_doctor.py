"""`lookaway doctor`: a picture's visual tokens, which transformers is needed, processors that lack a package."""

import json
import tomllib
from pathlib import Path

import transformers

from lookaway.anatomy import find
from lookaway.models import picture_tokens
from lookaway.models.loading import load_model


def test_the_releases_of_transformers_are_those_of_the_package():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert f"transformers{find.TRANSFORMERS}" in project["dependencies"]
    assert find.TRANSFORMERS.endswith(f"<{find.NOT_YET[0]}.{find.NOT_YET[1]}")


def test_visual_tokens_and_transformers_are_told(call, model_folder, tmp_path):
    assert call("doctor", model_folder, "--json", tmp_path / "d.json")[0] == 0
    found = json.loads((tmp_path / "d.json").read_text())
    tokens = picture_tokens.prompt_tokens(model_folder)
    assert found["facts"]["a picture"].startswith(f"{tokens.visual} visual tokens at 640 x 480;")
    assert found["facts"]["transformers"].startswith(transformers.__version__)
    assert found["supported"] is True


def test_a_transformers_that_is_too_new_makes_the_answer_no(call, model_folder, tmp_path, monkeypatch):
    for module in (transformers, find.transformers):  # two, where another test has imported it anew
        monkeypatch.setattr(module, "__version__", "5.24.0")
    status, out, _ = call("doctor", model_folder, "--json", tmp_path / "d.json")
    assert status == 1
    assert json.loads((tmp_path / "d.json").read_text())["supported"] is False
    assert "pip install 'transformers>=5.16,<5.24'" in " ".join(out.split())
    assert "next:" not in out


def test_a_processor_that_lacks_a_package_makes_the_answer_no(call, model_folder, tmp_path, monkeypatch):
    def lacks(*given, **more):
        raise ImportError("Qwen2VLVideoProcessor requires the Torchvision library")

    monkeypatch.setattr("lookaway.models.layouts.converted.processor_of", lacks)
    status, out, _ = call("doctor", model_folder, "--json", tmp_path / "d.json")
    assert status == 1
    assert json.loads((tmp_path / "d.json").read_text())["supported"] is False
    assert "requires the Torchvision library" in " ".join(out.split())


def test_a_folder_without_a_processor_is_told_and_is_no_error(call, model_folder, tmp_path):
    load_model(model_folder, device="cpu")[0].config.save_pretrained(tmp_path / "model")
    status, out, _ = call("doctor", tmp_path / "model")
    assert status == 0
    assert "not known how many visual tokens" in " ".join(out.split())
