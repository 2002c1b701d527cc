"""`lookaway tune` on a user's own folder: what comes out is an ordinary model for every other command."""

import pytest

from lookaway.cli.tune import Options, run
from lookaway.core.record import read_records


@pytest.mark.slow
def test_a_tuned_model_is_a_folder_for_the_other_commands(model_folder, data_file, tmp_path, call):
    out = tmp_path / "tuned"
    found = run(
        Options(model=str(model_folder), data=str(data_file), split="all", limit=8, max_steps=2, rank=2, save="merged",
                out=out)
    )  # fmt: skip
    assert found["steps"] == 2
    assert [record["kind"] for record in read_records(out / "records.jsonl")] == ["run", "training"]
    image = data_file.parent / "0.png"
    assert (
        call("ask", "--model", found["folder"], "--exit-at", "2", "--image", image, "--max-new-tokens", "2", "what?")[0]
        == 0
    )


def test_tuning_without_answers_is_refused(model_folder, data_file, tmp_path, call):
    import json

    (tmp_path / "d.json").write_text(json.dumps([{"image": str(data_file.parent / "0.png"), "question": "what?"}]))
    status, _, err = call("tune", "--model", model_folder, "--data", tmp_path / "d.json", "--split", "all",
                          "--out", tmp_path / "tuned")  # fmt: skip
    assert status == 1
    assert "have no answer" in err
