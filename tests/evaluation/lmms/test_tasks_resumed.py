"""`lookaway eval --tasks` goes on question by question after a kill, and what stands beside the policy is right."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from local_task import samples

from lookaway.core.record import read_records

TASK, COUNT = "easy_vqa_local", 12


def arguments(model, task_folder, out, *more):
    common = ["eval", "--model", model, "--exit-at", 3, "--tasks", TASK, "--include-path", task_folder, "--device",
              "cpu", "--no-task-defaults", "--task-limit", 10, "--batch-size", 2, "--out", out, *more]  # fmt: skip
    return [str(argument) for argument in common]


def contents(out):
    """All records but for what differs between two runs of one job: the header, and measured seconds."""
    found = []
    for record in read_records(out / "records.jsonl"):
        if record["kind"] == "task":
            record["efficiency"].pop("seconds")
        if record["kind"] != "run":
            found.append(record)
    return sorted(found, key=lambda r: (r["kind"], r.get("variant", ""), r.get("id", "")))


def answers(out):
    return [line for path in sorted((out / "cache").glob("answers-*.jsonl")) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tiny_folder, task_folder, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    from lookaway.cli.app import finish
    from lookaway.cli.eval import Options, run

    out = tmp_path_factory.mktemp("whole")
    options = Options(model=str(tiny_folder), exit_at=3, tasks=TASK, include_path=task_folder, task_defaults=False,
                      task_limit=10, batch_size=2, device="cpu", out=out)  # fmt: skip
    finish(run(options), out / "table.json")
    return out


def started_by(pid):
    """Processes below this one, the launcher's first."""
    below = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*below, *(one for child in below for one in started_by(child))]


def killed(command, out, count, environment=None):
    """Kill -9 the command, and all that it started, once `count` answers are kept."""
    environment = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", **(environment or {}))
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        for _ in range(4000):
            if sum('"answer"' in line for line in answers(out)) >= count or process.poll() is not None:
                break
            time.sleep(0.05)
        for pid in [process.pid, *started_by(process.pid)]:  # a launcher's workers live on without it
            os.kill(pid, signal.SIGKILL)
        process.wait()
    assert not (out / "records.jsonl").exists()


def test_a_killed_run_goes_on_and_leaves_the_same_records(whole, tiny_folder, task_folder, tmp_path, call):
    out = tmp_path / "out"
    killed([sys.executable, "-m", "lookaway", *arguments(tiny_folder, task_folder, out)], out, 13)
    path = out / "cache" / "answers-0.jsonl"
    kept = path.read_text().splitlines()[:14]  # the header, ten without, three with
    path.write_text("\n".join([*kept, kept[-1][:40]]))  # and a line that was cut short
    status, _, err = call(*arguments(tiny_folder, task_folder, out))
    assert status == 0, err
    assert contents(out) == contents(whole)
    found = answers(out)
    assert found[:14] == kept  # nothing of it was made again
    keys = [json.loads(line)["key"] for line in found[1:]]
    assert len(keys) == len(set(keys)) == 10 * 5  # without, the policy, three that stand beside it


def test_one_process_goes_on_where_two_were_killed(whole, tiny_folder, task_folder, tmp_path, call):
    out = tmp_path / "out"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "lookaway"]
    killed([*launcher, *arguments(tiny_folder, task_folder, out)], out, 12, {"MASTER_ADDR": "127.0.0.1"})
    before = answers(out)
    status, _, err = call(*arguments(tiny_folder, task_folder, out))
    assert status == 0, err
    assert contents(out) == contents(whole)
    texts = {json.loads(line)["key"] for line in before[:-1] if '"answer"' in line}
    assert len(texts) >= 11
    after = [json.loads(line)["key"] for line in answers(out) if '"answer"' in line]
    assert len(after) == len(set(after)) == 50


def test_the_same_command_again_asks_nothing_and_another_job_is_refused(
    whole, tiny_folder, task_folder, tmp_path, call, monkeypatch
):
    import shutil

    out = tmp_path / "out"
    shutil.copytree(whole, out)
    monkeypatch.setattr("lookaway.evaluation.lmms.model.LookawayModel._generate", None)
    assert call(*arguments(tiny_folder, task_folder, out))[0] == 0
    assert contents(out) == contents(whole)
    other = arguments(tiny_folder, task_folder, out)
    other[other.index("--exit-at") + 1] = "2"
    status, _, err = call(*other)
    assert (status, "Different now: policy.settings.layer: 3 -> 2" in err) == (1, True)
    (out / "cache" / "answers-0.jsonl").unlink()
    status, _, err = call(*arguments(tiny_folder, task_folder, out))
    assert (status, "is of an earlier run" in err) == (1, True)
    assert contents(out) == contents(whole)


def test_a_question_whose_picture_changed_is_asked_again(whole, tiny_folder, task_folder, tmp_path, call):
    """Same task, same number, other pixels: what was answered about them is not an answer to this."""
    import shutil

    import datasets
    from PIL import Image

    out, folder = tmp_path / "out", tmp_path / "task"
    shutil.copytree(whole, out)
    shutil.copytree(task_folder, folder)
    rows = datasets.Dataset.from_parquet(str(folder / "test.parquet"))
    changed = [dict(row) for row in rows]
    changed[4]["image"] = Image.new("RGB", changed[4]["image"].size, "blue")
    datasets.Dataset.from_list(changed, features=rows.features).to_parquet(str(folder / "test.parquet"))
    text = (folder / f"{TASK}.yaml").read_text().replace(str(task_folder), str(folder))
    (folder / f"{TASK}.yaml").write_text(text)
    before = len(answers(out))
    assert call(*arguments(tiny_folder, folder, out))[0] == 0
    new = [json.loads(line) for line in answers(out)[before:]]
    assert {(answer["task"], answer["document"]) for answer in new} == {(TASK, 4)}
    assert len(new) == 5


def test_baselines_answer_as_in_our_own_runner(manager, tiny_folder, tmp_path):
    import lookaway as la
    from lookaway.anatomy.find import anatomy_of
    from lookaway.evaluation.beside import at_cost
    from lookaway.evaluation.lmms.model import LookawayModel
    from lookaway.evaluation.lmms.run import TaskRuns
    from lookaway.evaluation.runner import evaluate_policy

    lm = LookawayModel(str(tiny_folder), device="cpu", batch_size=4)
    runs = TaskRuns(lm, [TASK], manager, out=tmp_path)
    results = runs.run(la.FastV(2, 0.5))
    anatomy = anatomy_of(lm.model)
    found = {
        kind: (baselines[TASK], theirs)
        for kind, baselines, theirs in runs.beside(results, lambda pairs: at_cost(pairs, anatomy, seed=0))
    }
    assert list(found) == ["random tokens", "uniform tokens", "downsampling", "fixed exit"]
    own_samples = samples(COUNT)
    own = evaluate_policy(lm.model, lm.processor, la.FastV(2, 0.5), own_samples, batch_size=4, max_new_tokens=8)
    for one in at_cost(own, anatomy, seed=0):
        baseline, (theirs,) = found[one.kind]
        assert (baseline.name, baseline.policy) == (one.name, one.policy)
        rows = evaluate_policy(lm.model, lm.processor, one.policy, own_samples, batch_size=4, max_new_tokens=8)
        for ours, pair in zip(rows, theirs.pairs, strict=True):
            assert (pair.answer_without, pair.answer_with) == (ours.answer_without, ours.answer_with)
            assert (pair.visual_tokens, pair.flops, pair.exit_layer) == (
                ours.visual_tokens, ours.flops, ours.exit_layer)  # fmt: skip
    assert (tmp_path / "random-tokens.json").exists()


def test_a_baseline_that_cannot_run_is_named_and_the_others_stand(manager, tiny_folder, tmp_path):
    import lookaway as la
    from lookaway.core.errors import LookawayError
    from lookaway.evaluation.beside import Baseline
    from lookaway.evaluation.lmms.model import LookawayModel
    from lookaway.evaluation.lmms.run import TaskRuns

    lm = LookawayModel(str(tiny_folder), device="cpu", batch_size=4)
    runs = TaskRuns(lm, [TASK], manager, out=tmp_path, limit=2)
    results = runs.run(la.ExitAt(2))
    chosen = [Baseline("impossible", la.ExitAt(99)), Baseline("possible", la.ExitAt(1))]
    found = {kind: theirs for kind, _, theirs in runs.beside(results, lambda pairs: chosen)}
    assert isinstance(found["impossible"], LookawayError)
    assert [pair.exit_layer for pair in found["possible"][0].pairs] == [1, 1]
