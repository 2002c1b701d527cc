"""Every published layout in the doctor's words, and neighbours of theirs that are refused by name."""

from __future__ import annotations

import json
import shutil

import pytest
from golden_cases import GOLDEN, checkpoint

from lookaway.core.errors import PreparationError, UnsupportedModel
from lookaway.models.layouts.detection import plan_for, recognise
from lookaway.models.layouts.doctor import diagnose
from lookaway.models.layouts.reader import Shards


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def copy(tmp_path):
    return lambda name: shutil.copytree(checkpoint(name), tmp_path / name / "model")


def change(folder, **keys):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **keys}))


@pytest.mark.parametrize("name", sorted(file.parent.parent.name for file in GOLDEN.glob("*/checkpoint/config.json")))
def test_the_doctor_knows_every_layout_in_ten_lines_without_weights(name, monkeypatch):
    monkeypatch.setattr(Shards, "read", None)
    found = diagnose(checkpoint(name))
    assert found.supported, found.why
    assert list(found.facts) == [
        "folder", "says of itself", "weights", "layout", "becomes", "decoder", "vision tower", "tokenizer", "prompt"
    ]  # fmt: skip
    assert found.facts["layout"] == recognise(checkpoint(name)).title
    assert "'<image>'" in found.facts["tokenizer"]


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"ps_version": "v1"}, r"InternVL-Chat 1.1 and 1.2 \(ps_version v1\).*is not supported"),
        ({"pad2square": True}, "pad2square"),
        ({"use_thumbnail": False}, "use_thumbnail is off"),
        ({"template": "internlm3"}, "'internlm3' is not known. Give one of these as --conversation"),
        ({"llm_config": {"architectures": ["GemmaForCausalLM"]}}, "decoder GemmaForCausalLM is not one"),
        ({"llm_config": {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True}}, "use_sliding_window"),
    ],
)
def test_other_internvls_are_refused_by_name(copy, keys, reason):
    folder = copy("InternVL2-1B")
    change(folder, **keys)
    with pytest.raises(UnsupportedModel, match=reason):
        plan_for(folder)


@pytest.mark.parametrize("name", ["InternVL2-1B", "Eagle2-1B", "VILA1.5-3b", "Eagle-X5-7B"])
def test_a_folder_without_its_weights_says_so(copy, name):
    folder = copy(name)
    for file in [*folder.rglob("model*.safetensors*")]:
        file.unlink()
    with pytest.raises(PreparationError, match=r"no weights. Download"):
        plan_for(folder)
