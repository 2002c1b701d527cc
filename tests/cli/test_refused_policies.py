"""A ranking that the model cannot give: `eval` and `fit` name what it can, and leave no result."""

import pytest

import lookaway as la

CURE = "choose a ranking by states: 'diversity'"
WAYS = {
    "eval": (lambda folder: ("eval", "--policy", folder), CURE),
    "fit-candidate": (lambda folder: ("fit", "--epsilon", 0.9, "--candidate", folder), CURE),
    "fit-reductions": (
        lambda folder: ("fit", "--epsilon", 0.9, "--reduce-before", 0, "--rankings", "last-token"),
        "this model allows layers 1 to 3. Give other --reduce-before",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_attention_before_the_decoder(way, call, model_folder, data_file, tmp_path):
    arguments, cure = WAYS[way]
    folder = la.KeepSchedule([0.5] * 4, ranking="last-token").save_pretrained(tmp_path / "policy")
    status, _, errors = call(
        *arguments(folder), "--model", model_folder, "--data", data_file, "--out", tmp_path / "out", "--device", "cpu",
        "--max-new-tokens", 2,
    )  # fmt: skip
    errors = " ".join(errors.split())
    assert status == 1, errors
    assert cure in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out" / "table.json").exists()
    assert not (tmp_path / "out" / "policy").exists()
