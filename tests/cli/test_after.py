"""`--after`: what may come in front of gates, and what the records say of it."""

import json

import pytest
import torch

import lookaway as la
from lookaway.core.record import read_records
from lookaway.models import loading


@pytest.fixture
def gates(tmp_path):
    folder = tmp_path / "gates"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # one in seven gates with drawn weights fires at every threshold
        la.VisualExit(la.ExitGates(32, (1, 2, 3), width=4), 0.5).save_pretrained(folder)
    return folder


def common(model_folder, data_file, tmp_path):
    return ["--model", model_folder, "--data", data_file, "--split", "all", "--limit", 12, "--cache", tmp_path / "c"]


@pytest.mark.parametrize("command", ["calibrate", "train"])
def test_a_second_look_cannot_come_first_and_no_model_is_loaded_for_it(
    command, gates, model_folder, data_file, tmp_path, call, monkeypatch
):
    cheap = la.KeepSchedule((1.0, 0.5, 0.5, 0.5), ranking="uniform")
    la.SecondLook(cheap, la.KeepAll()).save_pretrained(tmp_path / "looks")
    monkeypatch.setattr(loading, "load_model", lambda *a, **k: pytest.fail("a model was loaded"))
    more = ["--policy", gates, "--epsilon", 0.9] if command == "calibrate" else ["--out", tmp_path / "new"]
    status, _, err = call(command, *common(model_folder, data_file, tmp_path), "--after", tmp_path / "looks", *more)
    assert status == 1
    assert "Gates cannot come behind a second look" in err
    assert "la.SecondLook(gates, dearer)" in err
    assert not (tmp_path / "c").exists()


def test_gates_trained_alone_and_calibrated_behind_a_policy_say_both(gates, model_folder, data_file, tmp_path, call):
    skip = la.AttentionSkip((0, 2)).save_pretrained(tmp_path / "skip")
    status, _, err = call("calibrate", *common(model_folder, data_file, tmp_path), "--policy", gates, "--after", skip,
                          "--delta", 0.5, "--epsilon", 0.9)  # fmt: skip
    assert status == 0, err
    assert "were trained for the model by itself" in err
    record = list(read_records(tmp_path / "gates-calibrated" / "records.jsonl"))[-1]
    assert (record["trained_after"], record["after"]) == (None, repr(la.AttentionSkip((0, 2))))
    card = la.chain(la.load(skip), la.load(tmp_path / "gates-calibrated")).card()
    assert "was found behind the parts before it" in card


def test_gates_are_calibrated_in_groups(gates, model_folder, data_file, tmp_path, call):
    status, _, err = call("calibrate", *common(model_folder, data_file, tmp_path), "--policy", gates,
                          "--delta", 0.5, "--epsilon", 0.9, "--read-every", 2)  # fmt: skip
    assert status == 0, err
    made = la.load(tmp_path / "gates-calibrated")
    record = list(read_records(tmp_path / "gates-calibrated" / "records.jsonl"))[-1]
    assert (made.read_every, record["read_every"]) == (2, 2)
    assert made.guarantee is not None


def test_another_policy_of_the_same_words_is_refused_and_a_file_without_content_is_noted(
    model_folder, data_file, tmp_path, call
):
    """Two skip sets with other adapters look alike in words."""
    mine, other = (la.AttentionSkip((1,), la.SkipAdapters(32, (1,)).eval()) for _ in range(2))
    assert repr(mine) == repr(other)
    folder = tmp_path / "gates"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = la.VisualExit(la.ExitGates(32, (2, 3), width=4), 0.5).used_after(mine)
    made.save_pretrained(folder)
    other.save_pretrained(tmp_path / "other")
    command = ["calibrate", *common(model_folder, data_file, tmp_path), "--policy", folder, "--after",
               tmp_path / "other", "--delta", 0.5, "--epsilon", 0.9]  # fmt: skip
    status, _, err = call(*command)
    assert status == 1
    assert "were trained after AttentionSkip([1]" in err
    document = json.loads((folder / "config.json").read_text())
    del document["config"]["training"]["after_digest"]  # as 0.1 saved it
    (folder / "config.json").write_text(json.dumps(document))
    status, _, err = call(*command)
    assert status == 0, err
    assert "do not say by content what they were trained after" in err
    record = list(read_records(tmp_path / "gates-calibrated" / "records.jsonl"))[-1]
    assert record["after_compared_by"] == "name"
