"""Started as several processes, a command shares its work or refuses: it never does the same work several times."""

import importlib
from types import SimpleNamespace

import pytest

from lookaway.cli.app import app
from lookaway.cli.processes import SHARED, alone
from lookaway.core.errors import SettingsError
from lookaway.core.processes import started
from lookaway.models.loading import device_of_process


def test_a_command_that_does_not_share_refuses_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SettingsError, match=r"each of the 2 processes.*without torchrun.*CUDA_VISIBLE_DEVICES"):
        app(["report", str(tmp_path)], standalone_mode=False)


@pytest.mark.parametrize(("module", "size", "runs"), [
    ("eval", "1", True), ("eval", None, True), ("search_eas", "8", True), ("train_eas", "8", True),
    ("train_twig", "2", True),
    ("tune", "2", False), ("search", "8", False), ("bench", "2", False), ("serve", "2", False), ("report", None, True),
])  # fmt: skip
def test_who_runs(monkeypatch, module, size, runs):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if size is not None:
        monkeypatch.setenv("WORLD_SIZE", size)
        monkeypatch.setenv("RANK", "0")
    run = alone(f"lookaway.cli.{module}", lambda options: "done")
    if runs:
        assert run(SimpleNamespace(tasks=None)) == "done"
    else:
        with pytest.raises(SettingsError, match="does not share its work"):
            run(SimpleNamespace(tasks=None))


@pytest.mark.parametrize("environment", [
    {"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": "2"}, {"WORLD_SIZE": "2", "RANK": "x"}, {"WORLD_SIZE": "0"},
    {"WORLD_SIZE": "two", "RANK": "0"},
])  # fmt: skip
def test_a_launcher_that_says_half_is_refused(environment):
    with pytest.raises(SettingsError, match="WORLD_SIZE"):
        started(environment)


def test_each_process_takes_its_own_gpu():
    assert str(device_of_process(None, 4, {"LOCAL_RANK": "3"})) == "cuda:3"
    assert str(device_of_process("cuda", 4, {"LOCAL_RANK": "3"})) == "cuda:3"
    assert str(device_of_process("cuda:1", 4, {"LOCAL_RANK": "3"})) == "cuda:1"
    assert str(device_of_process("cpu", 4, {"LOCAL_RANK": "3"})) == "cpu"
    assert str(device_of_process(None, 1, {"LOCAL_RANK": "3"})) == "cuda"  # a launcher that shows each process its own
    assert str(device_of_process(None, 0, {"LOCAL_RANK": "3"})) == "cpu"
    assert str(device_of_process(None, 2, {})) == "cuda"
    with pytest.raises(SettingsError, match=r"Process 2 .* 2 are visible.*--nproc-per-node 2"):
        device_of_process(None, 2, {"LOCAL_RANK": "2"})


def test_what_shares_its_work_exists():
    for name in SHARED:
        assert callable(importlib.import_module(name).run)
