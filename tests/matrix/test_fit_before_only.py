"""`lookaway fit` on models that tokens may leave before the decoder only: convolutions, linear attention."""

import pytest
from checks import NEW, answer_alone

import lookaway as la
from lookaway.core.record import read_records
from lookaway.data import load_samples
from lookaway.models.loading import load_model


def fit(call, folder, out, *more):
    return call(
        "fit", "--model", folder, "--data", folder / "data.json", "--out", out, "--max-new-tokens", NEW,
        "--epsilon", 0.95, "--before-shares", 0.3, "--before-shares", 0.6, "--halvings", 0, "--device", "cpu", *more,
    )  # fmt: skip


def test_methods_before_the_decoder_are_tried_and_judged_alone(call, before_only, tmp_path):
    status, printed, errors = fit(call, before_only, tmp_path / "out", "--held-out", 2)
    printed = " ".join(printed.split())
    assert "may leave before this decoder only" in printed
    assert "--methods before-decoder." in printed
    assert (tmp_path / "out" / "records.jsonl").exists(), errors
    found = next(r for r in read_records(tmp_path / "out" / "records.jsonl") if r["kind"] == "fit")
    rows = {row["name"]: row for row in found["tried"]}
    assert {name.split("/")[0] for name in rows} == {"before-decoder"}
    assert "before-decoder/divprune-0.3" in rows
    model, processor = load_model(str(before_only), device="cpu")
    samples = load_samples(str(before_only / "data.json"), "train", distinct_images=True)
    policies = {
        "before-decoder/divprune-0.3": la.DivPrune(0.3),
        "before-decoder/uniform-0.6": la.UniformKeep(0.6, layer=0),
    }
    for name, policy in policies.items():
        both = [
            (answer_alone(model, processor, s, la.KeepAll()), answer_alone(model, processor, s, policy))
            for s in samples
        ]
        assert rows[name]["samples"] == len(samples)
        assert rows[name]["changed"] == sum(full != cut for (full, _), (cut, _) in both)
        spent, whole = (sum(pair[i][1].flops for pair in both) for i in (1, 0))
        assert rows[name]["share"] == pytest.approx(spent / whole, abs=1e-6)
    passed = [row for row in found["tested"] if row["bound"] <= 0.95]
    assert (status == 0) == bool(passed), errors
    if passed:
        beside = {r["name"] for r in read_records(tmp_path / "out" / "held-out.jsonl") if r["kind"] == "beside"}
        assert not any("exit" in name or "FastV" in name for name in beside)
        assert la.load(tmp_path / "out" / "policy").layers(4, 4) == (0,)


def test_methods_inside_alone_are_refused_with_the_cure(call, before_only, tmp_path):
    status, _, errors = fit(call, before_only, tmp_path / "out", "--methods", "exit", "--methods", "second-look")
    assert status != 0
    errors = " ".join(errors.split())
    assert "with --methods exit second-look is not possible" in errors
    assert "la.CDPruner" in errors


@pytest.mark.parametrize(
    "policy", [la.KeepSchedule([0.5] * 4, ranking="last-token"), la.VisionZip(0.5)], ids=["last-token", "visionzip"]
)
@pytest.mark.parametrize("command", ["eval", "fit"])
def test_rankings_by_attention_are_refused_with_the_cure(call, before_only, tmp_path, command, policy):
    saved = policy.save_pretrained(tmp_path / "policy")
    if command == "fit":
        status, _, errors = fit(call, before_only, tmp_path / "out", "--candidate", saved)
    else:
        status, _, errors = call(
            "eval", "--policy", saved, "--model", before_only, "--data", before_only / "data.json", "--out",
            tmp_path / "out", "--max-new-tokens", NEW, "--score", "agreement", "--device", "cpu",
        )  # fmt: skip
    assert status == 1, errors
    assert "la.CDPruner(keep" in errors
    assert "Traceback" not in errors
