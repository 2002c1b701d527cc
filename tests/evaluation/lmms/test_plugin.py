"""The plugin against our own runner: the same answers and scores, sample by sample; and lmms-eval's own command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from local_task import samples, write_task

from lookaway.core.errors import DataError, LookawayError, SettingsError, UnsupportedModel
from lookaway.core.record import read_records

TASK, COUNT = "easy_vqa_local", 12


def test_the_default_model_scores_as_in_our_own_runner_sample_by_sample(manager, tmp_path):
    """With the policy and without it. Exit before layer 6 of 30 is early enough to change answers."""
    import lookaway as la
    from lookaway.evaluation.lmms.model import LookawayModel
    from lookaway.evaluation.lmms.run import evaluate_tasks
    from lookaway.evaluation.runner import evaluate_policy
    from lookaway.evaluation.scorers import SCORERS
    from lookaway.evaluation.scores import score_pairs

    lm = LookawayModel("lookaway-mini-plain", device="cpu", batch_size=4)
    (result,) = evaluate_tasks(lm, la.ExitAt(6), [TASK], manager, out=tmp_path)
    own_samples = samples(COUNT)
    own = evaluate_policy(lm.model, lm.processor, la.ExitAt(6), own_samples, batch_size=4, max_new_tokens=8)
    scores = score_pairs(SCORERS["gqa"], own_samples, own)
    assert len(result.pairs) == COUNT
    for ours, theirs in zip(own, result.pairs, strict=True):
        assert (theirs.question, theirs.truth) == (ours.question, ours.truth)
        assert (theirs.answer_without, theirs.answer_with) == (ours.answer_without, ours.answer_with)
        for field in ("exit_layer", "visual_tokens", "flops", "full_flops", "kv_bytes", "full_kv_bytes", "agree"):
            assert getattr(theirs, field) == getattr(ours, field)
    assert result.scores.with_policy == scores.with_policy
    assert result.scores.without == scores.without
    totals = scores.totals_without["accuracy"], scores.totals["accuracy"]
    assert result.figures["exact_match"] == pytest.approx(totals)
    assert totals[0] > 0.5  # real scores, not zeros that are equal
    assert any(not pair.agree for pair in result.pairs)  # so that 'with' and 'without' are told apart

    written = json.loads((tmp_path / "policy.json").read_text())
    assert written["results"][TASK]["lookaway_flops_share"] == pytest.approx(result.efficiency["flops_share"])
    assert written["throughput"]["avg_exit_layer"] == 6.0
    assert "lookaway_flops_share" not in json.loads((tmp_path / "without.json").read_text())["results"][TASK]


def test_lookaway_eval_runs_tasks_and_says_what_it_did(task_folder, tiny_folder, tmp_path, call):
    out = tmp_path / "out"
    out.mkdir()
    (out / "fixed-exit.json").write_text("{}")  # of an earlier run with another limit
    arguments = ["eval", "--model", tiny_folder, "--exit-at", "2", "--tasks", TASK, "--include-path", task_folder,
                 "--no-task-defaults", "--task-limit", "6", "--device", "cpu", "--out", out]  # fmt: skip
    status, shown, _ = call(*arguments)
    assert status == 0
    assert "exact_match" in shown
    records = list(read_records(out / "records.jsonl"))
    kinds = [record["kind"] for record in records]
    assert (kinds.count("run"), kinds.count("sample"), kinds.count("task"), kinds.count("summary")) == (1, 24, 4, 4)
    rows = next(record for record in records if record["kind"] == "summary")["rows"]
    assert [row["family"] for row in rows] == ["all", TASK]
    assert rows[1]["mean_exit"] == 2.0
    assert rows[1]["visual_tokens"] == 8.0  # 16 tokens through 2 of 4 layers
    assert (out / "report.html").exists()
    assert not (out / "fixed-exit.json").exists()
    summaries = {record["variant"]: record for record in records if record["kind"] == "summary"}
    assert list(summaries) == ["policy", "random tokens", "uniform tokens", "downsampling"]  # it is a fixed exit itself
    assert summaries["downsampling"]["tasks"] == {TASK: {"name": "downsampling 2 x 2", "own_cost": True}}
    assert [row["visual_tokens"] for row in summaries["downsampling"]["rows"]] == [4.0, 4.0]
    assert "Beside the policy, at its cost" in (out / "report.html").read_text()


def test_an_unknown_task_names_the_near_ones_and_a_failed_run_does_not_exit_with_zero(
    task_folder, tiny_folder, tmp_path, call
):
    common = ["eval", "--model", tiny_folder, "--exit-at", "2", "--include-path", task_folder, "--no-task-defaults",
              "--device", "cpu"]  # fmt: skip
    status, _, err = call(*common, "--tasks", "easy_vqa_locl", "--out", tmp_path / "a")
    assert status == 1
    assert "no task 'easy_vqa_locl'. Near to it: easy_vqa_local" in err
    (tmp_path / "broken").mkdir()
    text = (task_folder / f"{TASK}.yaml").read_text().replace("test.parquet", "gone.parquet").replace(TASK, "broken")
    (tmp_path / "broken" / "broken.yaml").write_text(text)
    (tmp_path / "broken" / "utils.py").write_text((task_folder / "utils.py").read_text())
    common[common.index(task_folder)] = tmp_path / "broken"
    status, _, err = call(*common, "--tasks", "broken", "--out", tmp_path / "b")
    assert status == 1
    assert "The data of broken (parquet) cannot be read" in err
    assert not (tmp_path / "b" / "records.jsonl").exists()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (
            "image",
            {"bytes": b"no picture", "path": None},
            "Question 1 of damaged cannot be asked: UnidentifiedImageError",
        ),
        ("image", None, "Question 1 of damaged cannot be asked: AttributeError: .*'convert'. Its picture or"),
        ("question", None, "damaged/1 asks with NoneType for a text; its data is damaged"),
        ("answer", None, "lmms-eval could not evaluate damaged: TypeError: .* Nothing was written"),
    ],
)
def test_a_damaged_document_is_named(column, value, message, tiny_folder, tmp_path):
    """Each was a traceback, or, for a question that is null, an answer to the word 'None'."""
    import lookaway as la
    from lookaway.evaluation.lmms.model import LookawayModel
    from lookaway.evaluation.lmms.run import evaluate_tasks
    from lookaway.evaluation.lmms.tasks import task_manager

    manager = task_manager(write_task(tmp_path / "task", 3, "damaged", **{column: (1, value)}), defaults=False)
    with pytest.raises(LookawayError, match=message):
        evaluate_tasks(LookawayModel(str(tiny_folder), device="cpu"), la.ExitAt(2), ["damaged"], manager, out=tmp_path)


def test_task_files_that_cannot_be_used_are_refused_in_one_line(tiny_folder, tmp_path):
    import lookaway as la
    from lookaway.evaluation.lmms.model import LookawayModel
    from lookaway.evaluation.lmms.run import evaluate_tasks
    from lookaway.evaluation.lmms.tasks import task_manager

    manager = task_manager(write_task(tmp_path / "choice", 2, "choice", "loglikelihood"), defaults=False)
    with pytest.raises(UnsupportedModel, match="choice: a task scores given answers by their likelihood"):
        evaluate_tasks(LookawayModel(str(tiny_folder), device="cpu"), la.ExitAt(2), ["choice"], manager, out=tmp_path)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "torn.yaml").write_text("task: [torn\n  x: {")
    with pytest.raises(DataError, match=r"The task files in .*torn cannot be read: ParserError: while parsing"):
        task_manager(tmp_path / "torn", defaults=False)


def test_captions_without_java_are_told_from_data_that_is_missing(manager, tiny_folder, tmp_path, monkeypatch):
    import lmms_eval.evaluator

    import lookaway as la
    from lookaway.evaluation.lmms.model import LookawayModel
    from lookaway.evaluation.lmms.run import evaluate_tasks

    def scored(**given):
        raise FileNotFoundError(2, "No such file or directory", "java")

    monkeypatch.setattr(lmms_eval.evaluator, "simple_evaluate", scored)
    with pytest.raises(LookawayError, match=r"scores easy_vqa_local by a Java program.* the answers are kept"):
        evaluate_tasks(LookawayModel(str(tiny_folder), device="cpu"), la.ExitAt(2), [TASK], manager, out=tmp_path)


def test_the_score_of_a_question_is_its_first_number_of_whatever_type():
    """numpy's integers and booleans are no Python numbers: a task that gave them had no scores of single questions."""
    from lookaway.evaluation.lmms.run import _score

    for value in (1, 1.0, True, np.int64(1), np.bool_(True), np.float32(1), {"score": np.int64(1)}):
        assert _score({"note": "text", "match": value}, ["note", "match"]) == 1.0
    assert _score({"match": None, "other": {"text": "x"}}, ["match", "other", "none"]) is None


def test_data_that_is_not_here_names_what_to_fetch_and_from_whom(tiny_folder, tmp_path):
    """Tasks, a task that includes another's settings, a group; and the error of a run without a network."""
    from lookaway.evaluation.lmms.model import LookawayModel
    from lookaway.evaluation.lmms.run import evaluate_tasks
    from lookaway.evaluation.lmms.tasks import named_with_data, task_manager

    (tmp_path / "_shared.yaml").write_text("dataset_path: someone/Pictures\noutput_type: generate_until\n")
    (tmp_path / "own.yaml").write_text("include: _shared.yaml\ntask: own\ntest_split: test\n")
    (tmp_path / "both.yaml").write_text("group: both\ntask:\n  - own\n")
    manager = task_manager(tmp_path, defaults=False)
    assert named_with_data(["own", "both", "none"], manager) == "own (someone/Pictures), both (someone/Pictures), none"
    words = r"The data of own \(someone/Pictures\) cannot be read: .*hf download --repo-type dataset NAME"
    with pytest.raises(DataError, match=words):
        evaluate_tasks(LookawayModel(str(tiny_folder), device="cpu"), None, ["own"], manager, out=tmp_path)


def test_lmms_evals_own_command_line_finds_the_model(task_folder, tiny_folder, tmp_path):
    environment = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    command = [
        sys.executable, "-m", "lmms_eval", "--model", "lookaway", "--tasks", TASK, "--include_path", str(task_folder),
        "--model_args", f"pretrained={tiny_folder},exit_at=2,device=cpu,records={tmp_path / 'r.jsonl'}",
        "--batch_size", "2", "--limit", "6", "--output_path", str(tmp_path / "out"), "--log_samples",
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = Path(tmp_path / "out").rglob("*_results.json")
    results = json.loads(file.read_text())
    assert results["throughput"]["avg_exit_layer"] == 2.0
    assert results["throughput"]["avg_visual_tokens"] == 8.0
    rows = list(read_records(tmp_path / "r.jsonl"))
    assert [(row["task"], row["document"], row["exit_layer"]) for row in rows] == [(TASK, i, 2) for i in range(6)]


def test_two_processes_share_the_questions_and_give_the_results_of_one(task_folder, tiny_folder, tmp_path, call):
    arguments = [
        "eval",
        "--model",
        tiny_folder,
        "--exit-at",
        "2",
        "--tasks",
        TASK,
        "--include-path",
        task_folder,
        "--no-task-defaults",
        "--task-limit",
        "7",
        "--device",
        "cpu",
        "--batch-size",
        "1",
        "--out",
    ]
    assert call(*arguments, tmp_path / "one")[0] == 0
    environment = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", MASTER_ADDR="127.0.0.1")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "lookaway"]
    command = [*launcher, *map(str, arguments), str(tmp_path / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {name: list(read_records(tmp_path / name / "records.jsonl")) for name in ("one", "two")}
    for kind in ("sample", "summary"):
        one, two = ([record for record in found[name] if record["kind"] == kind] for name in ("one", "two"))
        assert sorted(one, key=lambda r: r.get("id", "")) == sorted(two, key=lambda r: r.get("id", ""))
    assert sum(record["kind"] == "sample" for record in found["two"]) == 7 * 4  # the policy and what stands beside it


def test_what_the_plugin_cannot_do_is_refused(tiny_folder):
    from lookaway.evaluation.lmms.messages import sample_of_messages
    from lookaway.evaluation.lmms.model import LookawayModel

    with pytest.raises(SettingsError, match="no argument 'pretraned'"):
        LookawayModel(pretraned="x")
    with pytest.raises(SettingsError, match=r"either policy \(p\) or exit_at \(3\)"):
        LookawayModel(str(tiny_folder), policy="p", exit_at=3)
    for settings in (
        {"exit_at": "early"},
        {"exit_at": 2.7},
        {"exit_at": 2, "batch_size": "auto"},
        {"exit_at": 2, "batch_size": 0},
    ):
        with pytest.raises(SettingsError, match=r"must be a(t least 1| whole number), not"):
            LookawayModel(str(tiny_folder), device="cpu", **settings)
    lm = LookawayModel(str(tiny_folder), device="cpu")
    for call, message in ((lm.loglikelihood, "by their likelihood"), (lm.generate_until_multi_round, "several rounds")):
        with pytest.raises(UnsupportedModel, match=message):
            call([])
    with pytest.raises(DataError, match="part of type 'video'"):
        sample_of_messages([{"role": "user", "content": [{"type": "video", "url": "x"}]}], "t/1")


def test_a_question_that_cannot_be_answered_ends_the_run(manager, tiny_folder, tmp_path):
    """lmms-eval's own wrappers write '' where generation fails; a wrong score without a word."""
    import lookaway as la
    from lookaway.evaluation.lmms.model import LookawayModel
    from lookaway.evaluation.lmms.run import evaluate_tasks

    lm = LookawayModel(str(tiny_folder), device="cpu")
    with pytest.raises(LookawayError):
        evaluate_tasks(lm, la.ExitAt(99), [TASK], manager, out=tmp_path, limit=2)
    assert not list(tmp_path.iterdir())
