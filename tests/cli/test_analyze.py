"""`lookaway analyze` on a user's own folder and data: what it leaves, how it goes on, what it refuses."""

import json

import pytest

from lookaway.cli.analyze import Options, run
from lookaway.cli.app import finish
from lookaway.core.record import read_records


@pytest.fixture(scope="module")
def analyzed(model_folder, data_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("analyze")
    options = Options(
        model=str(model_folder), data=str(data_file), split="all", limit=4, out=out, exit_at=2, name="fixed",
        max_new_tokens=4, pictures=3,
    )  # fmt: skip
    finish(run(options), out / "words.json")
    return out


def test_it_leaves_records_words_and_a_page(analyzed):
    kinds = [record["kind"] for record in read_records(analyzed / "records.jsonl")]
    assert (kinds.count("run"), kinds.count("study"), kinds.count("finding"), kinds.count("sample")) == (1, 4, 7, 4)
    assert 0 < kinds.count("look") <= 3
    page = (analyzed / "report.html").read_text()
    assert "4 · Do layers agree on what matters?" in page
    assert "processed all 16 visual tokens in layers 0 to 1, none from layer 2 on" in page
    words = json.loads((analyzed / "words.json").read_text())["conclusions"]
    assert len(words) > 6
    assert sorted(path.name for path in analyzed.iterdir()) == ["records.jsonl", "report.html", "words.json"]


def test_a_killed_run_goes_on_and_another_job_is_refused(analyzed, model_folder, data_file, call, tmp_path):
    lines = (analyzed / "records.jsonl").read_text().splitlines(keepends=True)
    studies = [line for line in lines if '"kind": "study"' in line]
    (tmp_path / "records.jsonl").write_text(lines[0] + studies[0] + studies[1] + studies[2][:50])
    common = ["analyze", "--model", model_folder, "--data", data_file, "--split", "all", "--limit", "4",
              "--out", tmp_path, "--exit-at", "2", "--name", "fixed", "--max-new-tokens", "4"]  # fmt: skip
    status, _, err = call(*common, "--window", "2")
    assert (status, "is of another run. Different now: options.window:" in err) == (1, True)
    status, out, _ = call(*common, "--pictures", "0")
    assert status == 0
    assert "report:" in out
    again = [record for record in read_records(tmp_path / "records.jsonl") if record["kind"] == "study"]
    assert [json.dumps(record) for record in again] == [json.dumps(json.loads(line)) for line in studies]


def test_further_records_must_fit_before_anything_is_probed(analyzed, model_folder, data_file, call, tmp_path):
    other = tmp_path / "other.jsonl"
    head = json.loads((analyzed / "records.jsonl").read_text().splitlines()[0])
    content = head["provenance"] | {"model": {"weights": "of another model"}}  # a name alone makes no other model
    other.write_text(json.dumps(head | {"model": "another", "provenance": content}) + "\n")
    common = ["analyze", "--model", model_folder, "--data", data_file, "--split", "all", "--limit", "2"]
    status, _, err = call(*common, "--out", tmp_path / "out", "--records", other)
    assert (status, "different models are mixed" in err) == (1, True)
    kinds = [record["kind"] for record in read_records(tmp_path / "out" / "records.jsonl")]
    assert kinds == ["run"]
    assert not (tmp_path / "out" / "report.html").exists()


def test_data_without_images_or_answers(model_folder, data_file, call, tmp_path):
    (tmp_path / "blind.json").write_text(json.dumps([{"question": "what?", "answer": "x"}]))
    common = ["analyze", "--model", model_folder, "--split", "all"]
    status, _, err = call(*common, "--data", tmp_path / "blind.json", "--out", tmp_path / "a")
    assert (status, "has an image" in err) == (1, True)
    picture = data_file.parent / "0.png"
    (tmp_path / "open.json").write_text(json.dumps([{"image": str(picture), "question": "what?"}]))
    status, out, _ = call(*common, "--data", tmp_path / "open.json", "--out", tmp_path / "b", "--max-new-tokens", "3")
    assert status == 0
    assert "no ground truth" in " ".join(out.split())
