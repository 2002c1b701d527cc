"""Published checkpoints and towers by hub id: what is fetched, and what is said where it cannot be. No network."""

from __future__ import annotations

import shutil

import pytest
import torch
from golden_cases import GOLDEN, cases, checkpoint, judge
from huggingface_hub.errors import LocalEntryNotFoundError

import lookaway as la
from lookaway.core.errors import PreparationError
from lookaway.models.layouts.fetching import published_folder

TOWER = "openai/clip-vit-large-patch14-336"
IDS = {"liuhaotian/llava-v1.5-7b": checkpoint("llava-v1.5-7b"), TOWER: GOLDEN / "towers" / TOWER}


class Hub:
    """Has two models, and remembers what was asked for."""

    def __init__(self, folder):
        self.folder, self.asked = folder, []

    def hf_hub_download(self, name, file):
        if name not in IDS:
            raise LocalEntryNotFoundError("offline")
        self.asked.append((name, file))
        return str(IDS[name] / file)

    def snapshot_download(self, name, **patterns):
        if name not in IDS:
            raise LocalEntryNotFoundError("offline")
        self.asked.append((name, "all"))
        target = self.folder / name.replace("/", "--")
        return str(shutil.copytree(IDS[name], target, dirs_exist_ok=True))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    made = Hub(tmp_path)
    for name in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(f"huggingface_hub.{name}", getattr(made, name))
    return made


def test_a_published_id_brings_its_tower(hub):
    model, processor = la.load_model("liuhaotian/llava-v1.5-7b", device="cpu", dtype=torch.float32)
    assert hub.asked == [
        ("liuhaotian/llava-v1.5-7b", "config.json"),
        ("liuhaotian/llava-v1.5-7b", "all"),
        (TOWER, "all"),
    ]
    assert la.anatomy(model).base.id == "liuhaotian/llava-v1.5-7b"
    judge(model, processor, cases("llava-v1.5-7b")[0])


def test_other_ids_are_left_to_transformers(hub, monkeypatch):
    assert published_folder(TOWER) is None  # its config is of no published layout
    assert hub.asked == [(TOWER, "config.json")]


def test_a_name_that_nobody_knows_is_asked_for_once(hub):
    with pytest.raises(PreparationError, match=r"no folder here, and the hub did not give it.*lookaway-mini"):
        la.load_model("somebody/else")


def test_a_published_id_that_comes_only_in_part_is_no_other_model(hub, monkeypatch):
    def broken(name, **patterns):
        raise OSError("the connection broke")

    monkeypatch.setattr("huggingface_hub.snapshot_download", broken)
    with pytest.raises(PreparationError, match="cannot be fetched from the hub"):
        la.load_model("liuhaotian/llava-v1.5-7b", device="cpu")
