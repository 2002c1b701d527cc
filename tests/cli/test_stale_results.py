"""Results of another run are never shown as this one's: every command that goes on from its folder."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import lookaway as la
from lookaway.core.errors import StaleResults
from lookaway.core.record import read_records


@pytest.fixture(scope="module")
def world(model_folder, data_file, tmp_path_factory):
    """A folder of everything that a run depends on: model/, gates/, data.json and its pictures."""
    from lookaway.models.loading import load_model

    home = tmp_path_factory.mktemp("world")
    shutil.copytree(model_folder, home / "model")
    shutil.copytree(data_file.parent, home / "data")
    base = la.anatomy(load_model(model_folder, device="cpu")[0]).identity
    with torch.random.fork_rng():
        torch.manual_seed(0)
        gates = la.ExitGates(32, (1, 2, 3), width=4)
    la.VisualExit(gates, 0.4, base=base).save_pretrained(home / "gates")
    return home


@pytest.fixture
def here(world, tmp_path):
    shutil.copytree(world, tmp_path / "w")
    return tmp_path / "w"


def change_threshold(here):
    la.load(here / "gates").with_threshold(0.9).save_pretrained(here / "gates")


def change_one_weight(here):
    """One value, and not one of some 33 a weight; in the projector, which the policy's fingerprint leaves out."""
    from safetensors.torch import load_file, save_file

    file = here / "model" / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "projector" in name and name.endswith("weight"))
    tensors[name].view(-1)[tensors[name].numel() // 2 + 1] += 0.5
    save_file(tensors, file, metadata={"format": "pt"})


def change_question(here):
    rewrite(here, lambda entry: entry | {"question": f"{entry['question']} please"})


def change_answer(here):
    rewrite(here, lambda entry: entry | {"answer": "b"})


def change_pictures(here):
    for picture in (here / "data").glob("*.png"):
        Image.new("RGB", (16, 16), "blue").save(picture)


def change_version(here):
    pytest.MonkeyPatch().setattr(la, "__version__", "9.9")


def rewrite(here, change):
    file = here / "data" / "data.json"
    file.write_text(json.dumps([change(entry) for entry in json.loads(file.read_text())]))


CHANGES = {
    change_threshold: "policy.settings.threshold: 0.4 -> 0.9",
    change_one_weight: "model.weights: ",
    change_question: "samples.questions: ",
    change_answer: "samples.answers: ",
    change_pictures: "samples.pictures: ",
    change_version: "library.lookaway: 0.1.0 -> 9.9",
}


@pytest.fixture
def version():
    before = la.__version__
    yield
    la.__version__ = before


def paired(here, command, out):
    data = [
        "--data",
        here / "data" / "data.json",
        "--split",
        "all",
        "--limit",
        3,
        "--max-new-tokens",
        2,
        "--pictures",
        0,
    ]
    more = ["--no-curve", "--no-baselines"] if command == "eval" else []
    return [command, "--model", here / "model", "--policy", here / "gates", *data, *more, "--out", out]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_eval_refuses_what_another_content_left_under_the_same_names(change, here, tmp_path, call, version):
    out = tmp_path / "ev"
    command = paired(here, "eval", out)
    assert call(*command)[0] == 0
    before = (out / "records.jsonl").read_text()
    change(here)
    status, _, err = call(*command)
    assert status == 1
    assert "records.jsonl is of another run. Different now: " in err
    assert CHANGES[change] in err
    assert (out / "records.jsonl").read_text() == before
    status, _, err = call(*command, "--fresh")
    assert status == 0, err
    kinds = [record["kind"] for record in read_records(out / "records.jsonl")]
    assert (kinds.count("run"), kinds.count("sample")) == (1, 3)


def test_eval_goes_on_where_only_names_changed(here, tmp_path, call):
    """The same content under other names is the same run."""
    out = tmp_path / "ev"
    assert call(*paired(here, "eval", out))[0] == 0
    moved = Path(shutil.move(here, tmp_path / "moved"))
    status, _, err = call(*paired(moved, "eval", out))
    assert status == 0, err
    assert sum(record["kind"] == "sample" for record in read_records(out / "records.jsonl")) == 3


def test_records_of_0_1_do_not_tell_and_are_refused(here, tmp_path, call):
    out = tmp_path / "ev"
    assert call(*paired(here, "eval", out))[0] == 0
    records = list(read_records(out / "records.jsonl"))
    del records[0]["provenance"]
    (out / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    status, _, err = call(*paired(here, "eval", out))
    assert status == 1
    assert "does not say what its results depend on" in err


def test_analyze_refuses_changed_pictures(here, tmp_path, call):
    command = paired(here, "analyze", tmp_path / "an")
    assert call(*command)[0] == 0
    change_pictures(here)
    status, _, err = call(*command)
    assert status == 1
    assert "samples.pictures: " in err


def test_a_policy_for_another_model_is_refused_or_said_so_in_the_records(here, tmp_path, call):
    from lookaway.anatomy.tiny import tiny

    tiny("llava", seed=5).model.save_pretrained(here / "model")
    command = paired(here, "eval", tmp_path / "ev")
    status, _, err = call(*command)
    assert status == 1
    assert "weights = " in err
    assert "--allow-other-model" in err
    status, _, err = call(*command, "--allow-other-model")
    assert status == 0, err
    run = next(iter(read_records(tmp_path / "ev" / "records.jsonl")))
    assert run["allowed_other_model"][0].startswith("weights = ")


def test_training_adapters_again_with_another_rate_is_refused_and_a_finished_run_stays_as_it_is(here, tmp_path, call):
    command = ["train", "--method", "eas", "--model", here / "model", "--data", here / "data" / "data.json", "--split",
               "all", "--limit", 8, "--max-steps", 3, "--width", 4, "--skip", 0, "--out", tmp_path / "eas"]  # fmt: skip
    status, text, _ = call(*command)
    assert (status, "3 steps on 8 samples" in " ".join(text.split())) == (0, True)
    before = la.load(tmp_path / "eas").tensors()
    status, text, err = call(*command)
    assert status == 0, err
    assert "3 steps on 8 samples" in " ".join(text.split())
    assert all(torch.equal(value, before[name]) for name, value in la.load(tmp_path / "eas").tensors().items())
    status, _, err = call(*command, "--lr", 0.5)
    assert status == 1
    assert "options.lr: 0.001 -> 0.5" in err
    change_one_weight(here)
    status, _, err = call(*command)
    assert status == 1
    assert "model.weights: " in err
    assert call(*command, "--lr", 0.5, "--fresh")[0] == 0


def test_training_gates_again_leaves_no_records_of_the_gates_before(here, tmp_path, call):
    command = ["train", "--model", here / "model", "--data", here / "data" / "data.json", "--split", "all",
               "--limit", 8, "--epochs", 1, "--width", 4, "--out", tmp_path / "g",
               "--cache", tmp_path / "c"]  # fmt: skip
    assert call(*command)[0] == 0
    assert call(*command, "--seed", 1)[0] == 0
    assert [record["kind"] for record in read_records(tmp_path / "g" / "records.jsonl")] == ["run", "training"]


def test_records_without_their_header_are_nobodys(tmp_path):
    from lookaway.cli.common import earlier_records

    records = tmp_path / "records.jsonl"
    records.write_text(json.dumps({"kind": "sample", "id": "1", "variant": "policy"}) + "\n")
    with pytest.raises(StaleResults, match="--fresh"):
        earlier_records(records, {"model": "a"}, fresh=False)
    assert earlier_records(records, {"model": "a"}, fresh=True) == []


def test_compared_gates_keep_their_own_names_and_are_of_this_model(here, tmp_path, call):
    """Folders that end alike, or like the policy's own name in tables, must not take each other's numbers."""
    first, second = here / "one" / "gates", here / "two" / "gates"
    for threshold, folder in ((0.0, first), (1.0, second)):
        la.load(here / "gates").with_threshold(threshold).save_pretrained(folder)
    command = [part for part in paired(here, "eval", tmp_path / "ev") if part != "--no-curve"]
    status, _, err = call(*command, "--compare", first, "--compare", second)
    assert status == 0, err
    records = read_records(tmp_path / "ev" / "records.jsonl")
    shown = [record["variant"] for record in records if record["kind"] == "comparison"]
    assert shown == ["policy", str(first), str(second)]
    from lookaway.anatomy.tiny import tiny

    base = la.anatomy(tiny("llava", seed=5).model).identity
    made = la.load(first)
    la.VisualExit(made.gates, 0.5, base=base).save_pretrained(first)
    status, _, err = call(*command, "--compare", first, "--fresh")
    assert status == 1
    assert "--allow-other-model" in err
