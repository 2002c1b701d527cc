"""`lookaway train --method eas`, and the methods' own options behind one command."""

from pathlib import Path

import pytest

import lookaway as la
from lookaway.cli.app import chosen_method
from lookaway.cli.options import from_mapping, load_config
from lookaway.cli.train_eas import Options
from lookaway.core.record import read_records
from lookaway.training.adapter_training import AdapterOptions

CONFIGS = Path(__file__).parents[2] / "configs"


def test_adapters_are_trained_from_the_command_line(model_folder, data_file, tmp_path, call):
    common = ("--model", model_folder, "--data", data_file, "--split", "all", "--limit", "8", "--max-steps", "2",
              "--width", "4")  # fmt: skip
    out = tmp_path / "eas"
    status, text, err = call("train", "--method", "eas", *common, "--skip", "0", "--skip", "2", "--out", out)
    assert status == 0, err
    assert "weights replace the attention of layers" in " ".join(text.split())
    assert la.load(out).skipped == (0, 2)
    assert [record["kind"] for record in read_records(out / "records.jsonl")] == ["run", "training"]
    assert "[0, 2]" in (out / "README.md").read_text()
    again = ("train", "--method", "eas", *common, "--skip-from", out, "--out", tmp_path / "again")
    assert call(*again)[0] == 0
    assert la.load(tmp_path / "again").skipped == (0, 2)
    status, _, err = call(*again, "--skip", "1")
    assert status == 1
    assert "not both" in err


def test_methods_have_options_of_their_own(call, tmp_path):
    assert "--skip-from" in call("train", "--method", "eas", "--help")[1]
    assert "--skip-from" not in call("train", "--help")[1]
    config = tmp_path / "c.yaml"
    config.write_text("method: eas\nskip: [1]\n")
    assert chosen_method(["--config", str(config)]) == "eas"
    assert chosen_method(["--method=dyvte", "--config", str(config)]) == "dyvte"
    assert chosen_method([]) is chosen_method(["--config", str(tmp_path / "none.yaml")]) is None
    assert call("train", "--method", "other")[0] != 0


@pytest.mark.parametrize("name", ["eas-recommended", "eas-published-llava", "eas-published-lavin"])
def test_configs_spell_their_preset_out(name):
    options = from_mapping(Options, load_config(CONFIGS / f"{name}.yaml", Options))
    preset = AdapterOptions(preset=options.preset).filled()
    for field in (
        "width",
        "pool",
        "once",
        "lr",
        "weight_decay",
        "beta2",
        "epochs",
        "warmup",
        "batch_size",
        "accumulate",
    ):
        assert getattr(options, field) == getattr(preset, field), field
    assert len(options.skip) == (0 if name == "eas-recommended" else 12)
