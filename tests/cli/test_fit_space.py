"""`lookaway fit` in full: scores, seconds, spaces from files, candidates that run live, held against live answers."""

import json

import pytest
import torch
import yaml
from fit_cases import NEW, arguments, live, record_of, samples_of

import lookaway as la
from lookaway.evaluation.scoring import is_right
from lookaway.models.encoding import encode


def test_a_certified_score_is_that_of_live_answers(call, model_folder, answered, loaded, tmp_path):
    more = ("--metric", "score", "--methods", "exit", "--methods", "reduction", "--shares", 0.1, "--shares", 0.5)
    status, printed, error = call(*arguments(model_folder, answered, tmp_path, *more))
    assert status == 0, error
    assert "of the mean score is lost" in " ".join(printed.split())
    found = record_of(tmp_path)
    assert found["certificate"]["metric"] == "score"
    assert found["certificate"]["scorer"] == "exact"
    assert found["certificate"]["method"].startswith("exact binomial")
    falls = {}
    for row in found["tried"]:
        layer = int(row["name"].rpartition("/")[2]) if row["method"] == "exit" else None
        if layer is None:
            continue
        lost = 0
        for sample in samples_of(answered, "train")[: row["samples"]]:
            before, after = (
                is_right(live(loaded, sample, p)[0], sample.answer) for p in (la.KeepAll(), la.ExitAt(layer))
            )
            lost += before and not after
        falls[row["name"]] = lost
        assert row["loss"] == pytest.approx(lost / row["samples"])
    assert falls
    assert max(falls.values()) > 0
    policy, lost = la.load(tmp_path / "policy"), 0
    for sample in samples_of(answered, "calibration"):
        lost += is_right(live(loaded, sample, la.KeepAll())[0], sample.answer) and not is_right(
            live(loaded, sample, policy)[0], sample.answer
        )
    assert found["certificate"]["loss"] == pytest.approx(lost / found["certificate"]["samples"])


def test_a_score_needs_answers(call, model_folder, answered, tmp_path):
    entries = json.loads(answered.read_text())
    for entry in entries:
        entry.pop("answer")
        entry["image"] = str(answered.parent / entry["image"])
    (tmp_path / "data.json").write_text(json.dumps(entries))
    status, _, error = call(*arguments("no/such/model", tmp_path / "data.json", tmp_path, "--metric", "score"))
    assert status == 1
    assert "have no answer" in error


def test_a_score_that_is_of_all_answers_together_is_no_loss_of_one(call, answered, tmp_path):
    """CIDEr was computed anew over the changed answers alone; scores above 1 were refused, after hours."""
    given = arguments("no/such/model", answered, tmp_path, "--metric", "score", "--score", "cider")
    status, _, error = call(*given)
    assert status == 1
    assert "'cider' scores an answer by all others" in error


def test_candidates_before_the_decoder_skips_frozen_layers_and_twigs_are_those_of_live_runs(
    call, model_folder, answered, loaded, tmp_path
):
    own = {"skip": la.AttentionSkip((1, 2)), "hold": la.ShortV((1, 2)), "early": la.DivPrune(0.2),
           "twig": la.Twig(start=1, depth=2, keep=0.4)}  # fmt: skip
    flags = [part for name, policy in own.items() for part in ("--candidate", policy.save_pretrained(tmp_path / name))]
    status, _, error = call(*arguments(
        model_folder, answered, tmp_path / "fit", "--methods", "before-decoder", "--before-shares", 0.25,
        "--halvings", 0, *flags,
    ))  # fmt: skip
    assert status == 0, error
    found = record_of(tmp_path / "fit")
    rows = {row["name"]: row for row in found["tried"]}
    policies = {f"own/{tmp_path / name}": policy for name, policy in own.items()}
    policies |= {"before-decoder/uniform-0.25": la.KeepSchedule([0.25] * 4, ranking="uniform"),
                 "before-decoder/cdpruner-0.25": la.CDPruner(0.25),
                 "before-decoder/downsample-2": la.Downsample(2)}  # fmt: skip
    samples = samples_of(answered, "train")
    full = {sample.id: live(loaded, sample, la.KeepAll(), NEW + 1)[1] for sample in samples}
    model, processor = loaded
    for name, policy in policies.items():
        count = NEW if name.startswith("own/") and "early" not in name else NEW + 1  # a live run ends with the answer
        changed = [live(loaded, s, policy, count)[1] != full[s.id][:count] for s in samples]
        assert rows[name]["changed"] == sum(changed), name
        costs = []
        for sample in samples:
            with torch.no_grad(), la.attach(model, policy) as run:
                model(**encode(processor, [sample], model.device).inputs)
            costs.append((run.trace.cost().flops, run.trace.cost().full_flops))
        assert rows[name]["share"] == pytest.approx(sum(c for c, _ in costs) / sum(f for _, f in costs)), name
    assert rows["before-decoder/uniform-0.25"]["share"] < 1


def test_a_space_is_saved_and_can_be_given_back(call, model_folder, answered, tmp_path):
    own = la.KeepSchedule.from_steps({2: 0.3}, 4, ranking="uniform").save_pretrained(tmp_path / "mine")
    space = ("--methods", "exit", "--methods", "reduction", "--shares", 0.3, "--candidate", own)
    status, _, error = call(*arguments(model_folder, answered, tmp_path / "a", *space))
    assert status == 0, error
    written = yaml.safe_load((tmp_path / "a" / "space.yaml").read_text())
    assert written["methods"] == ["exit", "reduction"]
    assert written["candidate"] == [str(own)]
    given = ("--space", tmp_path / "a" / "space.yaml")
    status, _, error = call(*arguments(model_folder, answered, tmp_path / "b", *given))
    assert status == 0, error
    assert [row["name"] for row in record_of(tmp_path / "b")["tried"]] == [
        row["name"] for row in record_of(tmp_path / "a")["tried"]
    ]
    status, _, error = call(*arguments(model_folder, answered, tmp_path / "c", *given, "--methods", "exit"))
    assert status == 1
    assert "both say what is tried" in " ".join(error.split())
    (tmp_path / "wrong.yaml").write_text("epsilon: 0.1\n")
    status, _, error = call(*arguments(model_folder, answered, tmp_path / "c", "--space", tmp_path / "wrong.yaml"))
    assert status == 1
    assert "nothing of a space" in error


def test_seconds_are_measured_and_a_speed_up_out_of_reach_says_what_is_reached(call, model_folder, answered, tmp_path):
    few = ("--methods", "exit", "--methods", "reduction", "--methods", "second-look", "--shares", 0.2, "--shares", 0.5,
           "--thresholds", 0.1, "--batch-size", 2, "--answer-tokens", 2)  # fmt: skip
    status, printed, error = call(*arguments(model_folder, answered, tmp_path / "a", *few, "--cost", "seconds"))
    found = record_of(tmp_path / "a")
    assert (status == 0) == bool(found["chosen"]), error
    assert found["unit"] == "seconds"
    timed = [row for row in found["order"] if row["seconds"]]
    assert timed == found["order"]
    for row in timed:
        assert row["share"] == pytest.approx(row["seconds"]["seconds"] / row["seconds"]["full_seconds"])
        assert (row["seconds"]["batch_size"], row["seconds"]["answer_tokens"]) == (2, 2)
    if found["chosen"]:
        assert found["confirmed"]["rounds"] > 0
        assert "Timed again" in " ".join(printed.split())
    status, _, error = call(*arguments(model_folder, answered, tmp_path / "b", *few, "--speedup", 1000))
    assert status == 1
    text = " ".join(error.split())
    assert "A speed-up of 1000 is not reached" in text or "No policy" in text
    if "not reached" in text:
        assert "times as fast as the full model" in text
        la.load(tmp_path / "b" / "policy")  # the fastest that passed is there


@pytest.mark.parametrize("kind", ["chain", "second-look"])
def test_a_certified_folder_that_was_changed_says_so(kind, loaded, tmp_path, monkeypatch):
    from lookaway.core.certificate import read_certificate, write_certificate

    cheap, dear = (la.KeepSchedule.from_steps({2: share}, 4, ranking="uniform") for share in (0.2, 0.7))
    policy = la.chain(cheap, la.ExitAt(3)) if kind == "chain" else la.SecondLook(cheap, dear, 0.8)
    object.__setattr__(policy, "base", la.anatomy(loaded[0]).identity)
    folder = policy.save_pretrained(tmp_path / "policy")
    write_certificate(folder, policy, {"epsilon": 0.03})
    assert read_certificate(folder, la.load(folder))["epsilon"] == 0.03
    text = (folder / "config.json").read_text()
    assert "0.2" in text
    (folder / "config.json").write_text(text.replace("0.2", "0.1"))
    with pytest.warns(UserWarning, match="changed after it was certified"):
        la.load(folder)
    asked = []

    def download(repo, allow_patterns, **more):
        asked.extend(allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.warns(UserWarning, match="changed after it was certified"):
        la.load("somebody/policy")  # the hub's copies are looked at in the same way
    assert "certificate.json" in asked


def test_gates_are_trained_behind_a_reduction_and_kept(call, model_folder, answered, tmp_path):
    more = ("--methods", "gates-behind", "--gates-behind-shares", 0.5)
    status, _, error = call(*arguments(model_folder, answered, tmp_path, *more))
    found = record_of(tmp_path)
    assert (status == 0) == bool(found["chosen"]), error
    assert found["tried"]
    assert {row["method"] for row in found["tried"]} == {"gates-behind"}
    assert la.load(tmp_path / "gates-behind" / "0.5").name == "visual-exit"
    if found["chosen"]:
        assert la.load(tmp_path / "policy").name == "chain"
    before = (tmp_path / "gates-behind" / "0.5" / "model.safetensors").stat().st_mtime_ns
    call(*arguments(model_folder, answered, tmp_path, *more))
    assert (tmp_path / "gates-behind" / "0.5" / "model.safetensors").stat().st_mtime_ns == before
