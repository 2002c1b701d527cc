"""`lookaway env` says what an issue needs, and nothing that identifies a user."""

import json
from pathlib import Path

import pytest
import torch
import transformers

import lookaway as la
from lookaway.cli.env import describe

CONFIGS = Path(__file__).parents[2] / "configs"


def test_versions_and_machine(call, tmp_path):
    status, out, _ = call("env", "--json", tmp_path / "env.json")
    assert status == 0
    values = json.loads((tmp_path / "env.json").read_text())
    assert values["versions"]["torch"] == torch.__version__
    assert values["versions"]["transformers"] == transformers.__version__
    assert values["versions"]["lookaway"].startswith(la.__version__)
    threads = torch.get_num_threads()
    assert values["machine"]["processor"].endswith(f", {threads} thread{'s' * (threads > 1)}")
    assert (
        values["machine"].get("GPU", "none") == "none" or torch.cuda.is_available() or torch.backends.mps.is_available()
    )
    for part in values.values():
        for name, value in part.items():
            assert f"  {name}: {value}\n" in out


def test_paths_are_not_shown(call, monkeypatch, tmp_path):
    monkeypatch.setenv("LOOKAWAY_CACHE", str(tmp_path / "jane"))
    status, out, _ = call("env")
    assert status == 0
    assert "LOOKAWAY_CACHE is set" in out
    assert str(tmp_path) not in out
    assert str(Path.home()) + "/" not in out


def test_a_policy_is_described(call):
    status, out, _ = call("env", "--policy", CONFIGS / "fastv.yaml")
    assert status == 0
    assert "method: fastv" in out
    assert "ratio: 0.5" in out
    assert "made for: any model" in out


@pytest.mark.parametrize("variant", ["exit-aware", "plain"])
def test_trained_gates_name_their_model_and_their_weights(variant):
    gates = la.load(Path(la.__file__).parent / "models/mini/weights" / f"gates-{variant}")
    values = describe(gates)
    assert values["method"] == gates.name
    assert values["learned weights"] == f"{sum(t.numel() for t in gates.tensors().values()):,}"
    assert "30 layers" in values["made for"]


def test_a_missing_policy_is_one_clear_line(call, tmp_path):
    status, _, err = call("env", "--policy", tmp_path / "nowhere.yaml")
    assert status == 1
    assert "nowhere.yaml" in err
    assert "Traceback" not in err
