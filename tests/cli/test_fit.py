"""`lookaway fit` on tiny models of several families: a certified policy, resumed runs, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch

import lookaway as la
from lookaway.core.record import read_records
from lookaway.models.loading import load_model


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, write_questions):
    """One question a picture, 90 pictures: 54 or so to search on, 18 or so to certify on."""
    return write_questions(tmp_path_factory.mktemp("pictures"), 90, seed=3)


def fit(call, model, data, out, *more):
    held_out = () if "--held-out" in more else ("--held-out", 0)
    return call("fit", "--model", model, "--data", data, "--out", out, "--max-new-tokens", 2, "--epsilon", 0.9,
                "--limit", 24, "--shares", 0.5, "--shares", 0.9, *held_out, *more)  # fmt: skip


def test_a_policy_is_certified_saved_and_attached_and_the_same_command_goes_on(
    call, model_folder, pictures, tmp_path, monkeypatch
):
    out, more = tmp_path / "fit", ("--methods", "reduction", "--held-out", 6, "--json")
    status, printed, _ = fit(call, model_folder, pictures, out, *more, tmp_path / "fit.json")
    assert status == 0
    assert "can show at best" in printed.replace("\n", " ")
    found = json.loads((tmp_path / "fit.json").read_text())
    assert found["certificate"]["bound"] <= 0.9
    assert found["chosen"]["share"] < 1
    policy = la.load(out / "policy")
    model, _ = load_model(model_folder, device="cpu")
    with la.attach(model, policy):
        pass
    records = list(read_records(out / "held-out.jsonl"))
    beside = {r["name"]: r for r in records if r["kind"] == "beside"}
    assert next(iter(beside)) == "this policy"
    assert {"random tokens", "uniform tokens", "downsampling 2 x 2", "FastV as published"} <= set(beside)
    assert found["report"] == str(out / "report.html")
    assert "Held-out samples" in (out / "report.html").read_text()
    config = json.loads((out / "policy" / "config.json").read_text())
    changed = json.loads(json.dumps(config).replace("0.9", "0.8").replace("0.5", "0.4"))
    assert changed != config
    (out / "policy" / "config.json").write_text(json.dumps(changed))
    with pytest.warns(UserWarning, match="changed after it was certified"):
        la.load(out / "policy")

    def outcomes(self, policy):
        raise AssertionError("a trial ran again")

    monkeypatch.setattr("lookaway.search.fit.sample_runs.SampleRuns.outcomes", outcomes)
    status, _, _ = fit(call, model_folder, pictures, out, *more, tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text())
    assert status == 0
    once = [(r["variant"], r["id"]) for r in read_records(out / "held-out.jsonl") if r["kind"] == "sample"]
    assert len(once) == len(set(once))  # held-out answers are not made again either
    assert again["chosen"] == found["chosen"]
    assert again["certificate"] == found["certificate"]


def test_the_certified_answers_are_those_of_live_runs(call, model_folder, pictures, tmp_path):
    from lookaway.data import load_samples
    from lookaway.models.encoding import encode

    status, _, _ = fit(call, model_folder, pictures, tmp_path / "fit", "--methods", "second-look",
                       "--shares", 0.1, "--thresholds", 0.08, "--thresholds", 0.1)  # fmt: skip
    assert status == 0
    record = next(r for r in read_records(tmp_path / "fit" / "records.jsonl") if r["kind"] == "fit")
    policy = la.load(tmp_path / "fit" / "policy")
    model, processor = load_model(model_folder, device="cpu")
    samples = load_samples(str(pictures), "calibration", 24, 0, distinct_images=True)
    changed = 0
    for sample in samples:
        inputs = encode(processor, [sample], model.device).inputs
        with torch.no_grad():
            plain = model.generate(**inputs, max_new_tokens=2, do_sample=False)
            with la.attach(model, policy):
                ours = model.generate(**inputs, max_new_tokens=2, do_sample=False)
        changed += not torch.equal(plain, ours)
    assert len(samples) == record["certificate"]["samples"]
    assert changed <= record["certificate"]["changed"]  # the record also counts the token behind the last one


def test_too_few_samples_are_named_before_any_work(call, model_folder, pictures, tmp_path):
    status, _, error = call("fit", "--model", "no/such/model", "--data", pictures, "--epsilon", 0.03, "--out", tmp_path)
    assert status == 1
    assert "that takes 99" in error.replace("\n", " ")


def test_a_fit_with_other_options_in_the_same_folder_is_refused(call, model_folder, pictures, tmp_path):
    assert fit(call, model_folder, pictures, tmp_path, "--methods", "reduction")[0] == 0
    status, _, error = fit(call, model_folder, pictures, tmp_path, "--methods", "exit")
    assert status == 1
    assert "methods" in error
    assert "--fresh" in error
    assert fit(call, model_folder, pictures, tmp_path, "--methods", "exit", "--fresh")[0] in (0, 1)
    kinds = {
        row["method"] for r in read_records(tmp_path / "records.jsonl") if r["kind"] == "fit" for row in r["tried"]
    }
    assert "exit" in kinds


def test_where_nothing_passes_the_exit_status_says_so(call, model_folder, pictures, tmp_path):
    status, _, error = call("fit", "--model", model_folder, "--data", pictures, "--out", tmp_path, "--epsilon", 0.2,
                            "--limit", 18, "--max-new-tokens", 2, "--methods", "exit")  # fmt: skip
    assert status == 1
    assert "No policy" in error
    assert not (tmp_path / "policy").exists()


OUT_OF_REACH = {
    "is a second look": la.SecondLook(la.ExitAt(2), la.ExitAt(3), 0.5),
    "was made for": la.ExitAt(2),
}
"""What is no candidate."""


@pytest.mark.parametrize("reason", OUT_OF_REACH)
def test_candidates_that_cannot_be_tried_are_refused(call, model_folder, pictures, tmp_path, reason):
    policy = OUT_OF_REACH[reason]
    if reason == "was made for":
        model, _ = load_model(model_folder, device="cpu")
        policy = policy.with_base(replace(la.anatomy(model).identity, weights="0" * 32))
    folder = policy.save_pretrained(tmp_path / "own")
    status, _, error = fit(call, model_folder, pictures, tmp_path / "fit", "--candidate", folder)
    assert status == 1
    assert reason in " ".join(error.split())
    assert not (tmp_path / "fit" / "policy").exists()


def test_fresh_removes_the_policy_of_the_fit_before(call, model_folder, pictures, tmp_path):
    trials = ("--storage", tmp_path / "trials.journal")
    assert fit(call, model_folder, pictures, tmp_path / "fit", "--methods", "reduction", *trials)[0] == 0
    status, _, error = call(
        "fit", "--model", model_folder, "--data", pictures, "--out", tmp_path / "fit", "--epsilon", 0.2, "--limit", 18,
        "--max-new-tokens", 2, "--methods", "exit", "--fresh", *trials,
    )  # fmt: skip
    assert status == 1
    assert "No policy" in error
    assert not (tmp_path / "fit" / "policy").exists()
    records = list(read_records(tmp_path / "fit" / "records.jsonl"))
    assert [record["kind"] for record in records] == ["run", "fit"]


def test_pictures_without_questions_are_asked_generic_prompts_and_both_say_so(call, model_folder, tmp_path):
    import numpy as np
    from PIL import Image

    from lookaway.data import load_samples
    from lookaway.data.pictures import PROMPTS

    rng = np.random.default_rng(4)
    (tmp_path / "photos").mkdir()
    for number in range(70):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{number}.png")
    out = tmp_path / "fit"
    status, _, error = fit(call, model_folder, tmp_path / "photos", out, "--methods", "reduction", "--held-out", 6)
    assert status == 0, error
    (record,) = [r for r in read_records(out / "records.jsonl") if r["kind"] == "fit"]
    assert set(record["generic_prompts"]) <= set(PROMPTS.values())
    assert "generic prompts were asked" in (out / "report.html").read_text()
    beside = [r for r in read_records(out / "held-out.jsonl") if r["kind"] == "beside"]
    assert {r["accuracy"] for r in beside} == {None}
    ids = {r["id"] for r in read_records(out / "held-out.jsonl") if r["kind"] == "sample"}
    assert ids <= {s.id for s in load_samples(str(tmp_path / "photos"), "test")}


def test_where_the_fit_has_seen_all_pictures_the_page_shows_those_that_certified_and_says_why(
    call, model_folder, answered, tmp_path
):
    more = ("--methods", "reduction", "--split", "calibration+test", "--held-out", 6, "--pictures", 2, "--limit", 100)
    status, printed, error = fit(call, model_folder, answered, tmp_path, *more)
    assert status == 0, error
    records = list(read_records(tmp_path / "held-out.jsonl"))
    (reason,) = [r for r in records if r["kind"] == "no-beside"]
    assert "seen by the fit" in reason["why"]
    kept = [r["id"] for r in records if r["kind"] == "kept"]
    assert len(kept) == 2
    from lookaway.data import load_samples

    assert set(kept) <= {s.id for s in load_samples(str(answered), "calibration+test", distinct_images=True)}
    page = (tmp_path / "report.html").read_text()
    assert page.count('<article class="card">') == 2
    assert reason["why"] in page
    assert "its split test has certified this policy" in " ".join(printed.split())
