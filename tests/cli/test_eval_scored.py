"""`lookaway eval` by a task's own score: the curve of exits and the marks of single answers say what the table says."""

import json
import re

import pytest

from lookaway.cli.eval import Options, check_options
from lookaway.core.errors import DataError, SettingsError
from lookaway.core.record import Sample, read_records
from lookaway.evaluation.runner import evaluate_policy


@pytest.fixture
def written(data_file, tmp_path):
    """Make a file of the first six questions, each changed by `change(entry)`."""

    def write(change, name="d.json"):
        entries = [entry | {"image": str(data_file.parent / entry["image"])} for entry in
                   json.loads(data_file.read_text())[:6]]  # fmt: skip
        (tmp_path / name).write_text(json.dumps([entry | change(entry) for entry in entries]))
        return tmp_path / name

    return write


@pytest.fixture
def said(call, model_folder, written, tmp_path):
    """Id -> what the full model says."""
    evaluate(call, model_folder, written(lambda entry: {}, "own.json"), tmp_path / "own", "--no-curve")
    found = {r["id"]: r["answer_without"] for r in read_records(tmp_path / "own" / "records.jsonl")
             if r["kind"] == "sample"}  # fmt: skip
    assert any(answer.lower() != answer.upper() for answer in found.values())  # letters, so that case can differ
    return found


def evaluate(call, model_folder, data, out, *more):
    status, _, err = call("eval", "--model", model_folder, "--exit-at", 2, "--data", data, "--split", "all",
                          "--out", out, "--max-new-tokens", 3, "--no-baselines", "--device", "cpu", *more)  # fmt: skip
    assert status == 0, err
    return list(read_records(out / "records.jsonl"))


def only(records, kind):
    return [record for record in records if record["kind"] == kind]


@pytest.mark.parametrize("scorer", ["exact", "vqa", "textvqa"])
def test_curve_and_marks_are_by_the_scorer_of_the_table(scorer, call, model_folder, written, said, tmp_path):
    """Ten people say what the model says, in capitals, and the file names another answer: by the letters of that one
    every exit was wrong in the curve, and every answer in the pictures, while the table had them right."""

    def people(entry):
        return {"answers": [said[entry["id"]].swapcase() or "-"] * 10, "answer": "none of it", "scorer": scorer}

    records = evaluate(call, model_folder, written(people), tmp_path / "out")
    (summary,) = only(records, "summary")
    row, curve = summary["rows"][0], next(c for c in only(records, "curve") if c["family"] == "all")
    assert summary["scorer"] == scorer
    assert row["accuracy_without"] > 0.5
    assert curve["fixed"][-1]["accuracy"] == pytest.approx(row["accuracy_without"])
    samples = only(records, "sample")
    assert sum(sample["right_without"] for sample in samples) / 6 == pytest.approx(row["accuracy_without"])
    for sample in samples:
        assert sample["right_with"] == (sample["right_without"] if sample["agree"] else False)


def test_an_exit_that_says_neither_the_models_answer_nor_the_truth_scores_nothing(
    call, model_folder, written, said, tmp_path
):
    """And the curve is then a lower bound of what the exit scores live."""
    records = evaluate(
        call, model_folder, written(lambda e: {"answer": said[e["id"]].swapcase() or "-"}), tmp_path / "o"
    )
    row = only(records, "summary")[0]["rows"][0]
    curve = next(c for c in only(records, "curve") if c["family"] == "all")
    point = curve["fixed"][curve["layers"].index(2)]
    assert point["agreement"] == row["agreement"][0]
    assert point["accuracy"] <= row["accuracy_with"]
    assert point["accuracy"] == pytest.approx(row["agreement"][0] * row["accuracy_without"], abs=1 / 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": "gqa", "limit": 50}, "--limit does nothing beside --tasks: take --task-limit"),
        ({"tasks": "gqa", "max_new_tokens": 8}, "--max-new-tokens does nothing beside --tasks"),
        ({"tasks": "gqa", "data": "scenes"}, "--data does nothing beside --tasks"),
        ({"tasks": "gqa", "split": "all"}, "--split does nothing beside --tasks"),
        ({"tasks": "gqa", "score": "vqa"}, "--score does nothing beside --tasks"),
        ({"tasks": "gqa", "compare": ("gates",)}, "--compare does nothing beside --tasks"),
        ({"tasks": "gqa", "task_limit": 0}, "--task-limit must be at least 1, not 0"),
        ({"task_limit": 5}, "--task-limit does nothing without --tasks"),
        ({"task_defaults": False}, "--no-task-defaults does nothing without --tasks"),
        ({"include_path": "x"}, "--include-path does nothing without --tasks"),
    ],
)
def test_options_of_the_other_kind_of_evaluation_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        check_options(Options(**options))


def test_options_that_both_kinds_know():
    check_options(Options(tasks="gqa", task_limit=5, curve=False, baselines=False, seed=3, batch_size=2, pictures=0))
    check_options(Options(data="scenes", limit=5, max_new_tokens=4))


def test_questions_that_records_would_confuse_are_refused():
    """Two of one id had one answer; a family 'all' took the place of all questions in the curve."""
    one = Sample("1", [{"role": "user", "content": "?"}], (), "a")
    for samples, message in (
        ([one, one], "two questions with the id '1'"),
        ([one, Sample("2", one.messages, (), "a", "all")], "'2' is 'all', which is what tables call all questions"),
        ([], "holds no questions"),
    ):
        with pytest.raises(DataError, match=message):
            evaluate_policy(None, None, None, samples)


COMMANDS = {
    "eval": ["--exit-at", 2],
    "train": ["--method", "dyvte"],
    "search": ["--method", "g-search", "--budget", 0.6],
    "analyze": [],
    "fit": ["--epsilon", 0.1],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_is_no_picture_is_named_before_the_model_runs(command, call, model_folder, tmp_path):
    """It was read as bytes first, and refused without its sample's name in the middle of the run."""
    entries = [{"id": f"q{i}", "image": f"{i}.png", "question": "what?", "answer": "ab"} for i in range(40)]
    for entry in entries:
        (tmp_path / entry["image"]).write_text("no picture")
    (tmp_path / "d.json").write_text(json.dumps(entries))
    split = [] if command == "fit" else ["--split", "all"]
    status, _, err = call(command, "--model", model_folder, "--data", tmp_path / "d.json", "--out", tmp_path / "out",
                          *split, *COMMANDS[command])  # fmt: skip
    assert status == 1
    assert re.search(r"error: Sample 'q\d+': The file '.*\.png' is no picture\. Put one there, or take the qu", err), (
        err
    )
    assert "Traceback" not in err
