"""`lookaway eval`, `ask`, `report` on a user's own folder and data: what they leave, resume and refuse."""

import json
from pathlib import Path

import pytest

from lookaway.cli.app import finish
from lookaway.cli.eval import Options, run
from lookaway.core.record import read_records

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def evaluated(model_folder, data_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("eval")
    options = Options(
        model=str(model_folder), exit_at=2, data=str(data_file), split="all", limit=12, out=out, max_new_tokens=4
    )
    finish(run(options), out / "table.json")
    return out


def test_eval_leaves_records_a_table_and_a_page(evaluated):
    kinds = [record["kind"] for record in read_records(evaluated / "records.jsonl")]
    assert (kinds.count("run"), kinds.count("sample"), kinds.count("curve")) == (1, 4 * 12, 3)
    table = json.loads((evaluated / "table.json").read_text())
    whole = table["summary"][0]
    assert (whole["family"], whole["samples"], whole["mean_exit"], whole["never_exits"]) == ("all", 12, 2.0, 0.0)
    assert whole["visual_tokens"] == 8.0  # 16 tokens through 2 of 4 layers
    assert "</html>" in (evaluated / "report.html").read_text()


def test_baselines_stand_beside_the_policy_at_its_cost(evaluated):
    """Exit before layer 2 of 4: the fixed exit at its cost is the policy itself, and is not run again."""
    found = {r["variant"]: r for r in read_records(evaluated / "records.jsonl") if r["kind"] == "summary"}
    assert list(found) == ["policy", "random tokens", "uniform tokens", "downsampling 2 x 2"]
    rows = {name: record["rows"][0] for name, record in found.items()}
    for name in ("random tokens", "uniform tokens"):
        assert rows[name]["visual_tokens"] == pytest.approx(rows["policy"]["visual_tokens"], abs=0.5)
    for name in list(found)[1:]:
        assert found[name]["beside"] == "policy"
        assert rows[name]["accuracy_without"] == rows["policy"]["accuracy_without"]
    assert rows["downsampling 2 x 2"]["visual_tokens"] == 4.0
    page = (evaluated / "report.html").read_text()
    assert "Beside the policy, at its cost" in page
    assert "<td>downsampling 2 x 2 (at its own cost)</td>" in page


def test_questions_that_a_baseline_cannot_answer_are_told_apart(model_folder, data_file, tmp_path, call):
    """The truth is what the full model says, so the hard questions are those whose answer a baseline changes."""
    common = ["eval", "--model", model_folder, "--policy", CONFIGS / "fastv.yaml", "--split", "all", "--limit", 12,
              "--max-new-tokens", 3, "--no-curve"]  # fmt: skip
    assert call(*common, "--data", data_file, "--score", "agreement", "--out", tmp_path / "a")[0] == 0
    records = list(read_records(tmp_path / "a" / "records.jsonl"))
    names = [r["variant"] for r in records if r["kind"] == "summary"]
    assert names[1:3] == ["random tokens", "uniform tokens"]  # also without answers to score by
    assert names[3:] == ["downsampling 2 x 2", "fixed exit before layer 3"]
    assert not [r for r in records if r["kind"] == "hard"]
    own = {r["id"]: r["answer_without"] for r in records if r["kind"] == "sample"}
    entries = json.loads(data_file.read_text())
    for entry in entries:
        entry |= {"answer": own.get(entry["id"], ""), "image": str(data_file.parent / entry["image"])}
    kept = [entry for entry in entries if entry["answer"].strip()]
    (tmp_path / "d.json").write_text(json.dumps(kept))
    status, _, err = call(*common, "--data", tmp_path / "d.json", "--score", "exact", "--out", tmp_path / "b")
    assert status == 0, err
    records = list(read_records(tmp_path / "b" / "records.jsonl"))
    right = {}
    for r in records:
        if r["kind"] == "sample" and r["right_without"]:
            right.setdefault(r["variant"], {})[r["id"]] = r["right_with"]
    wanted = {}
    for name in ("uniform tokens", "downsampling 2 x 2"):
        hard = [id for id, found in right[name].items() if not found]
        if hard:
            wanted[name] = len(hard), sum(right["policy"][id] for id in hard) / len(hard)
    found = {r["beside"]: (r["questions"], r["retention"][0]) for r in records if r["kind"] == "hard"}
    assert wanted
    assert found.keys() == wanted.keys()
    assert all(found[name] == pytest.approx(wanted[name]) for name in wanted)
    assert f"keeps {100 * found['downsampling 2 x 2'][1]:.1f} % (" in (tmp_path / "b" / "report.html").read_text()


def test_a_run_that_ended_among_the_baselines_goes_on_there(evaluated, model_folder, data_file, tmp_path, call,
                                                            monkeypatch):  # fmt: skip
    from lookaway.engine import api

    whole = list(read_records(evaluated / "records.jsonl"))
    lines = (evaluated / "records.jsonl").read_text().splitlines(keepends=True)
    last = max(i for i, r in enumerate(whole) if r["kind"] == "sample" and r["variant"] == "random tokens")
    (tmp_path / "records.jsonl").write_text("".join(lines[: last - 3]) + lines[last - 3][:30])  # batches of 8 and 4
    asked = []
    attach = api.attach
    monkeypatch.setattr("lookaway.evaluation.runner.attach", lambda model, p: asked.append(p.name) or attach(model, p))
    status, _, err = call("eval", "--model", model_folder, "--data", data_file, "--split", "all", "--out", tmp_path,
                          "--limit", 12, "--max-new-tokens", 4, "--exit-at", 2)  # fmt: skip
    assert status == 0, err
    assert asked == ["keep-schedule"] * 3 + ["downsample"] * 2  # of the policy and 8 of 12 random ones nothing anew
    found = list(read_records(tmp_path / "records.jsonl"))
    key = [(r["variant"], r["id"], r["answer_with"]) for r in found if r["kind"] == "sample"]
    assert sorted(key) == sorted((r["variant"], r["id"], r["answer_with"]) for r in whole if r["kind"] == "sample")


def test_the_curve_at_the_exit_layer_is_what_the_live_run_did(evaluated):
    records = list(read_records(evaluated / "records.jsonl"))
    curve = next(r for r in records if r["kind"] == "curve" and r["family"] == "all")
    summary = next(r for r in records if r["kind"] == "summary")["rows"][0]
    point = curve["fixed"][curve["layers"].index(2)]
    assert point["agreement"] == summary["agreement"][0]
    assert point["accuracy"] == summary["accuracy_with"]
    assert point["flops_share"] == pytest.approx(summary["flops_share"])


def test_an_interrupted_run_goes_on_and_another_job_is_refused(evaluated, model_folder, data_file, call):
    records = evaluated / "records.jsonl"
    whole = records.read_text()
    lines = whole.splitlines(keepends=True)
    samples = [line for line in lines if '"kind": "sample"' in line and '"variant": "policy"' in line]
    records.write_text(lines[0] + "".join(samples[:5]) + samples[5][:40])
    common = ["eval", "--model", model_folder, "--data", data_file, "--split", "all", "--out", evaluated]
    more = ["--limit", "12", "--max-new-tokens", "4"]
    status, _, err = call(*common, *more, "--exit-at", "3")
    assert status == 1
    assert "policy.settings.layer: 2 -> 3" in err
    assert call(*common, *more, "--exit-at", "2")[0] == 0
    again = [r for r in read_records(records) if r["kind"] == "sample" and r["variant"] == "policy"]
    assert sorted(r["id"] for r in again) == sorted(json.loads(line)["id"] for line in samples)
    assert {r["id"]: r["answer_with"] for r in again} == {
        json.loads(s)["id"]: json.loads(s)["answer_with"] for s in samples
    }


def test_policies_joined_by_commas_are_one_after_another(model_folder, data_file, tmp_path, call):
    thin = "policy: keep-schedule\nconfig: {keep: [1.0, 0.5, 0.5, 0.5], ranking: uniform}\n"
    (tmp_path / "thin.yaml").write_text(thin)
    (tmp_path / "leave.yaml").write_text("policy: exit-at\nconfig: {layer: 3}\n")
    chosen = f"{tmp_path / 'thin.yaml'}, {tmp_path / 'leave.yaml'}"
    common = ["eval", "--model", model_folder, "--data", data_file, "--split", "all", "--limit", "4", "--no-curve"]
    assert call(*common, "--max-new-tokens", "2", "--policy", chosen, "--out", tmp_path / "both")[0] == 0
    samples = [r for r in read_records(tmp_path / "both" / "records.jsonl") if r["kind"] == "sample"][:4]
    assert [r["visual_tokens"] for r in samples] == [[16, 8, 8, 0]] * 4


def test_report_draws_the_records_again(evaluated, tmp_path, call):
    status, out, _ = call("report", "--records", evaluated / "records.jsonl", "--out", tmp_path / "r.html")
    assert (status, (tmp_path / "r.html").exists()) == (0, True)
    assert "wrote" in out


def test_ask_prints_the_answer_and_what_was_processed(model_folder, data_file, call, tmp_path):
    image = data_file.parent / "0.png"
    status, out, _ = call("ask", "--model", model_folder, "--exit-at", "2", "--image", image, "--max-new-tokens", "3",
                          "--json", tmp_path / "a.json", "what is it?")  # fmt: skip
    assert status == 0
    assert "processed all 16 visual tokens in layers 0 to 1, none from layer 2 on" in " ".join(out.split())
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["exit_layer"] == 2
    assert 0 < found["prefill_flops_share"] < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", "what?"], "No image: give one with --image"),
        (["ask", "--exit-at", "2", "--policy", "x", "--image", "y.png", "what?"], "--policy (x) or --exit-at (2)"),
        (["eval", "--model", "MODEL", "--data", "DATA"], "No policy: give --policy DIR (`lookaway fit` finds one"),
        (["ask", "--model", "out/nowhere/model", "--image", "IMAGE", "what?"], "no model folder at out/nowhere/model"),
        (["ask", "--model", "MODEL", "--exit-at", "2", "--image", "missing.png", "what?"], "missing.png"),
        (["ask", "--model", "MODEL", "--exit-at", "9", "--image", "IMAGE", "what?"], "layer 9"),
        (["ask", "--model", "nowhere/nothing", "--exit-at", "2", "--image", "IMAGE", "what?"], "nowhere/nothing"),
        (["eval", "--model", "MODEL", "--policy", "no-such-folder", "--data", "DATA"], "no-such-folder"),
        (["eval", "--model", "MODEL", "--exit-at", "2", "--data", "no-such-file.json"], "No data at no-such-file.json"),
        (["eval", "--model", "MODEL", "--exit-at", "2", "--data", "DATA", "--name", "uniform tokens"], "Give another"),
        (["eval", "--model", "MODEL", "--exit-at", "2", "--data", "DATA", "--name", "../a"], "without slashes"),
        (["report"], "No records"),
        (["report", "--records", "nothing.jsonl"], "nothing.jsonl"),
    ],
)  # fmt: skip
def test_bad_input_is_named_and_does_not_exit_with_zero(arguments, message, model_folder, data_file, call, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    places = {"MODEL": model_folder, "DATA": data_file, "IMAGE": data_file.parent / "0.png"}
    status, _, err = call(*[places.get(a, a) for a in arguments])
    assert status == 1
    assert message in err
    assert "Traceback" not in err


def test_a_score_without_answers_is_refused(model_folder, tmp_path, call, data_file):
    picture = data_file.parent / "0.png"
    (tmp_path / "d.json").write_text(json.dumps([{"image": str(picture), "question": "what?"}]))
    common = ["eval", "--model", model_folder, "--exit-at", "2", "--data", tmp_path / "d.json", "--split", "all"]
    status, _, err = call(*common, "--out", tmp_path / "out")
    assert (status, "None of the 1 samples has an answer" in err) == (1, True)
    status, out, _ = call(*common, "--out", tmp_path / "out", "--score", "agreement", "--max-new-tokens", "3")
    assert (status, "right with" in out, "same answer" in out) == (0, False, True)


def test_samples_with_answers_are_scored_and_agreement_is_of_all(model_folder, tmp_path, call, data_file, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    entries = json.loads(data_file.read_text())[:6]
    for entry in entries:
        entry["image"] = str(data_file.parent / entry["image"])
    for entry in entries[2:]:
        del entry["answer"]
    (tmp_path / "d.json").write_text(json.dumps(entries))
    status, out, err = call(
        "eval", "--model", model_folder, "--policy", CONFIGS / "fastv.yaml", "--data", tmp_path / "d.json", "--split",
        "all", "--max-new-tokens", "2", "--name", "fastv", "--out", tmp_path / "out",
    )  # fmt: skip
    assert status == 0, err
    assert "with an answer" in out
    assert "mean exit" not in out
    summary = next(r for r in read_records(tmp_path / "out" / "records.jsonl") if r["kind"] == "summary")
    row = summary["rows"][0]
    assert (row["samples"], row["scored"], summary["can_exit"]) == (6, 2, False)
    samples = [r for r in read_records(tmp_path / "out" / "records.jsonl") if r["kind"] == "sample"][:6]
    judged = [r["answer_with"].strip() == "ab" for r in samples if r["truth"] is not None]
    assert row["accuracy_with"] == sum(judged) / 2
    assert row["agreement"][0] == pytest.approx(sum(r["answer_with"] == r["answer_without"] for r in samples) / 6)
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<th scope="col">with an answer</th>' in page
    assert "mean exit" not in page


def test_an_answer_that_holds_the_token_of_pictures_does_not_stop_the_evaluation(
    model_folder, data_file, tmp_path, call
):
    entries = json.loads(data_file.read_text())[:6]
    entries[1]["answer"] = "<image>"
    for entry in entries:
        entry["image"] = str(data_file.parent / entry["image"])
    (tmp_path / "d.json").write_text(json.dumps(entries))
    with pytest.warns(UserWarning, match=r"1 of 6 samples are left out \(the first: '1'\)"):
        status, _, err = call("eval", "--model", model_folder, "--data", tmp_path / "d.json", "--split", "all",
                              "--exit-at", 2, "--no-baselines", "--out", tmp_path / "e")  # fmt: skip
    assert status == 0, err
    records = list(read_records(tmp_path / "e" / "records.jsonl"))
    assert sum(record["kind"] == "sample" for record in records) == 6
    counts = {record["family"]: record["samples"] for record in records if record["kind"] == "curve"}
    assert counts == {"all": 5, "even": 3, "odd": 2}
