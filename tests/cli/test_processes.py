"""Started as several processes, a command shares its work or refuses: it never does the same work several times."""

import importlib
from types import SimpleNamespace

import pytest

from lookaway.cli.app import app
from lookaway.cli.processes import SHARED, alone
from lookaway.core.errors import SettingsError


def test_a_command_that_does_not_share_refuses_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match=r"each of the 2 processes.*without torchrun.*CUDA_VISIBLE_DEVICES"):
        app(["report", str(tmp_path)], standalone_mode=False)


@pytest.mark.parametrize(("module", "tasks", "size", "runs"), [
    ("eval", None, "2", False), ("eval", "gqa", "2", True), ("eval", None, "1", True), ("eval", None, None, True),
    ("search_eas", None, "8", True), ("train_eas", None, "8", True), ("search", None, "8", False),
    ("fit", None, "2", False), ("calibrate", None, "2", False), ("analyze", None, "2", False),
])  # fmt: skip
def test_who_runs(monkeypatch, module, tasks, size, runs):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if size is not None:
        monkeypatch.setenv("WORLD_SIZE", size)
    run = alone(f"lookaway.cli.{module}", lambda options: "done")
    if runs:
        assert run(SimpleNamespace(tasks=tasks)) == "done"
    else:
        with pytest.raises(SettingsError, match="does not share its work"):
            run(SimpleNamespace(tasks=tasks))


def test_what_shares_its_work_exists():
    for name in SHARED:
        assert callable(importlib.import_module(name).run)
