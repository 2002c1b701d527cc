"""The commands on published checkpoints in their authors' layout: convert, doctor, ask, train, search."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import GotOcr2ImageProcessorPil

import lookaway as la
from lookaway.models.eagle2.tiling import Eagle2ImageProcessorPil
from lookaway.models.registration import OWN_TYPES, register_own_models

GOLDEN = Path(__file__).parents[1] / "models" / "golden"
PICTURE = GOLDEN / "images" / "a-300x200.png"
VISUAL = {
    "llava-v1.5-7b": 576, "InternVL-Chat-ViT-6B-Vicuna-7B": 576, "llava-v1.6-vicuna-7b": 976, "InternVL2-1B": 256,
    "Eagle-X5-7B": 1024, "VILA1.5-3b": 196, "VILA1.5-3b-s2": 196, "Llama-3-VILA1.5-8b": 196, "Eagle2-1B": 256,
    "Eagle2-1B-eagle_2_5_vl": 256,
}  # fmt: skip
"""One checkpoint of every layout -> visual tokens of the picture, tiled models at one tile."""
LARGE = ("Eagle-X5-7B", "VILA1.5-3b-s2")  # pictures of 1024 x 1024 and 1152 x 1152 pixels
MODELS = [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in VISUAL]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(params=MODELS)
def folder(request, monkeypatch):
    # one tile a picture: the commands, not the tiling, are at stake
    for processor in (GotOcr2ImageProcessorPil, Eagle2ImageProcessorPil):
        monkeypatch.setattr(processor, "crop_image_to_patches", one_tile)
    return GOLDEN / request.param / "checkpoint"


def one_tile(self, image, min_patches, max_patches, use_thumbnail=True, patch_size=None, resample=None):
    return [self.resize(image, patch_size, resample=resample)]


def test_ask(folder, call, tmp_path):
    status, _, err = call(
        "ask", "--model", folder, "--image", PICTURE, "--exit-at", 2, "--max-new-tokens", 3, "--device", "cpu",
        "--json", tmp_path / "ask.json", "What is in this picture?",
    )  # fmt: skip
    assert status == 0, err
    found = json.loads((tmp_path / "ask.json").read_text())
    assert found["exit_layer"] == 2
    assert found["visual_tokens"] == VISUAL[folder.parent.name]


def test_train(folder, call, data_file, tmp_path):
    status, _, err = call(
        "train", "--model", folder, "--data", data_file, "--split", "all", "--limit", 8, "--epochs", 2, "--device",
        "cpu", "--out", tmp_path / "gates", "--cache", tmp_path / "cache", "--max-new-tokens", 2,
    )  # fmt: skip
    assert status == 0, err
    model, _ = la.load_model(folder, device="cpu")
    with la.attach(model, la.load(tmp_path / "gates")):
        pass


def test_search(folder, call, data_file, tmp_path):
    status, _, err = call(
        "search", "--model", folder, "--data", data_file, "--method", "p-sigmoid", "--trials", 3, "--budget", 0.9,
        "--limit", 3, "--max-new-tokens", 2, "--batch-size", 3, "--random-trials", 2, "--device", "cpu",
        "--out", tmp_path / "schedule",
    )  # fmt: skip
    assert status == 0, err
    model, _ = la.load_model(folder, device="cpu")
    with la.attach(model, la.load(tmp_path / "schedule")):
        pass


def test_fit(folder, call, tmp_path, write_questions):
    data = write_questions(tmp_path, 90, seed=3)
    status, _, err = call(
        "fit", "--model", folder, "--data", data, "--out", tmp_path / "fit", "--max-new-tokens", 2,
        "--epsilon", 0.95, "--limit", 8, "--shares", 0.9, "--device", "cpu",
    )  # fmt: skip
    assert status == 0, err
    model, _ = la.load_model(folder, device="cpu")
    with la.attach(model, la.load(tmp_path / "fit" / "policy")):
        pass


def test_convert_and_doctor(call, tmp_path):
    source = GOLDEN / "VILA-7b" / "checkpoint"
    status, out, _ = call("doctor", source)
    assert status == 0
    assert "LLaVA-1.5 or VILA 1.0" in out
    assert "yes" in out
    status, out, err = call("convert", source, tmp_path / "vila", "--conversation", "llava_v1")
    assert status == 0, err
    assert "curious human" in (tmp_path / "vila" / "chat_template.jinja").read_text()
    status, out, _ = call("doctor", tmp_path / "vila", "--json", tmp_path / "doctor.json")
    found = json.loads((tmp_path / "doctor.json").read_text())
    assert found["supported"] is True
    assert "family LLaVA 1.5" in found["why"]
    status, _, err = call("convert", source, tmp_path / "vila")
    assert status == 1
    assert "exists already" in err
    status, _, err = call("convert", tmp_path / "vila", tmp_path / "again")
    assert status == 1
    assert "none of the published layouts" in err
    status, out, _ = call("doctor", tmp_path)
    assert status == 1
    assert "NO. It has no config.json" in out


def test_every_class_of_this_package_is_listed():
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    register_own_models()
    added = {kind for kind, made in CONFIG_MAPPING._extra_content.items() if made.__module__.startswith("lookaway.")}
    assert added == set(OWN_TYPES)


@pytest.mark.parametrize("name", ["VILA1.5-3b", "VILA-7b", "Eagle2-1B"])
def test_the_doctor_says_which_converted_folders_need_lookaway(call, tmp_path, name):
    """As a fresh process of transformers without lookaway says: it knows no `model_type` of ours."""
    assert call("convert", GOLDEN / name / "checkpoint", tmp_path / "hf")[0] == 0
    code = f"from transformers import AutoConfig; AutoConfig.from_pretrained({str(tmp_path / 'hf')!r})"
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert call("doctor", tmp_path / "hf", "--json", tmp_path / "doctor.json")[0] == 0
    found = json.loads((tmp_path / "doctor.json").read_text())
    assert found["supported"] is True
    assert ("together with lookaway" in found["why"]) == (alone.returncode != 0)


@pytest.mark.parametrize(
    ("kind", "supported", "words"),
    [("mllama", False, "cross-attention"), ("some_vlm", True, "no family that lookaway lists"),
     ("eagle_chat", False, "Eagle2 with the vision tower None is not supported")],
)  # fmt: skip
def test_the_doctor_knows_families_and_refusals(call, tmp_path, kind, supported, words):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    status, _, _ = call("doctor", tmp_path, "--json", tmp_path / "doctor.json")
    assert status == int(not supported)
    found = json.loads((tmp_path / "doctor.json").read_text())
    assert found["supported"] is supported
    assert words in found["why"]
