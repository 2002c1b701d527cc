"""A policy on disk: read back as written; damaged, foreign and absent ones are named."""

import json

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from lookaway.core.artifact import read_policy, save_policy
from lookaway.core.base_model import BaseModel
from lookaway.core.errors import DataError, LookawayError, ModelMismatch

BASE = BaseModel("Llava", 4, 32, 97, id="user/name", revision="abc")


@pytest.fixture
def folder(tmp_path):
    return save_policy(tmp_path / "p", "gates", {"threshold": 0.5}, {"w": torch.arange(6.0).view(2, 3).T}, BASE, "Body")


def test_what_is_saved_is_read_back(folder):
    found = read_policy(folder)
    assert (found.name, found.config, found.base) == ("gates", {"threshold": 0.5}, BASE)
    assert torch.equal(found.tensors["w"], torch.arange(6.0).view(2, 3).T)
    assert found.version
    card = (folder / "README.md").read_text()
    assert "base_model: user/name" in card
    assert "Body" in card


def test_saving_again_replaces_its_own_files_only(folder):
    (folder / "notes.txt").write_text("mine")
    save_policy(folder, "exit_at", {}, {}, None, "")
    found = read_policy(folder)
    assert (found.name, found.tensors, found.base) == ("exit_at", {}, None)
    assert (folder / "notes.txt").read_text() == "mine"
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "notes.txt"]


NO_POLICY = ["", "{", "[]", "3", "{}", '{"policy": "x"}']
NO_FINGERPRINT = ['{"policy": "x", "config": {}, "base_model": %s}' % base for base in ("3", '{"id": "y"}')]  # noqa: UP031


@pytest.mark.parametrize("text", [*NO_POLICY, *NO_FINGERPRINT])
def test_a_damaged_config_is_named(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(DataError, match=r"config\.json is not a saved lookaway policy"):
        read_policy(folder)


@pytest.mark.parametrize("keep", [0, 7, 40, -4])
def test_cut_weights_are_named(folder, keep):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"model\.safetensors is damaged .*Copy or train it again"):
        read_policy(folder)


def test_a_fingerprint_from_a_newer_version_may_have_more_fields(folder):
    document = json.loads((folder / "config.json").read_text())
    document["base_model"]["mood"] = "good"
    (folder / "config.json").write_text(json.dumps(document))
    assert read_policy(folder).base == BASE


def test_a_folder_without_a_policy(tmp_path):
    with pytest.raises(DataError, match=r"holds no config\.json"):
        read_policy(tmp_path)


@pytest.mark.parametrize("name", ["gates", "not//an id", "a/b/c", "/no/gates", "./gates", "../gates", "x/"])
def test_a_name_that_can_only_be_a_folder_is_not_looked_up(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match=rf"^There is no policy at {name}\. Give the folder .*lookaway fit"):
        read_policy(name)


def test_so_is_a_path_whose_first_folder_is_here(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match=r"^There is no policy at out/gates\."):
        read_policy("out/gates")


def _not_found():
    from huggingface_hub.errors import RepositoryNotFoundError

    response = type("Response", (), {"headers": {}, "status_code": 404, "request": None})()
    return RepositoryNotFoundError("404\n\nA paragraph.", response=response)


@pytest.mark.parametrize(("error", "why"), [
    (LocalEntryNotFoundError("Got: ConnectError.\nAn error happened ..."), "the hub cannot be reached"),
    (OfflineModeIsEnabled("offline mode is enabled"), "the hub cannot be reached"),
    (_not_found(), r"the hub does not give it \(404\)"),
])  # fmt: skip
def test_what_the_hub_does_not_give_is_one_line(error, why, monkeypatch):
    def download(*_, **__):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(DataError, match=rf"^There is no folder me/gates here, and {why}\. Give the folder") as caught:
        read_policy("me/gates")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"), [("architecture", "Other"), ("num_layers", 5), ("hidden_size", 33), ("vocab_size", 98)]
)
def test_another_model_is_refused_with_both_values(name, value):
    other = BaseModel(**{**vars(BASE), name: value})
    with pytest.raises(ModelMismatch) as caught:
        BASE.check(other)
    assert repr(getattr(BASE, name)) in str(caught.value)
    assert repr(value) in str(caught.value)


def test_name_and_revision_are_for_people_only():
    BASE.check(BaseModel("Llava", 4, 32, 97, id="renamed", revision="other"))


def test_a_full_disk_leaves_the_earlier_policy(folder, monkeypatch):
    import safetensors.torch

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(LookawayError, match="No space left on device"):
        save_policy(folder, "gates", {"threshold": 0.9}, {"w": torch.zeros(1)}, BASE, "")
    assert read_policy(folder).config == {"threshold": 0.5}
