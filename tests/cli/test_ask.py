"""What `lookaway ask` says of the visual tokens, in the same words for every policy, and without one."""

import json

import pytest

import lookaway as la
from lookaway.cli.ask import show

FOUND = {
    "answer": "red",
    "num_layers": 30,
    "visual_tokens": 64,
    "layer_visual_tokens": [64] * 30,
    "prefill_flops_share": 1.0,
    "kv_bytes_share": 1.0,
    "exit_layer": None,
    "skipped_attention": [],
    "looked_again": False,
    "drafted_tokens": 0,
    "accepted_tokens": 0,
}
LESS = {"prefill_flops_share": 0.6, "kv_bytes_share": 0.5}
SAVED = "prefill 40% fewer FLOPs, KV cache 50% fewer bytes"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "processed all 64 visual tokens in all 30 layers: nothing saved"),
        (
            {"layer_visual_tokens": [64, 64] + [20] * 28, **LESS},
            f"processed 20 of 64 visual tokens from layer 2 on: {SAVED}",
        ),
        (
            {"layer_visual_tokens": [64] * 9 + [0] * 21, "exit_layer": 9, **LESS},
            f"processed all 64 visual tokens in layers 0 to 8, none from layer 9 on: {SAVED}",
        ),
        (
            {"skipped_attention": [3, 7], **LESS},
            f"processed all 64 visual tokens in all 30 layers; skipped the attention of layers 3, 7: {SAVED}",
        ),
        (
            {"looked_again": True, "prefill_flops_share": 1.2, "kv_bytes_share": 0.5},
            "all 30 layers; unsure after a first pass, it looked again: prefill 20% more FLOPs, KV cache 50% fewer",
        ),
        (
            {"looked_again": True, "prefill_flops_share": 1.25, "kv_bytes_share": 1.0},
            "it looked again: prefill 25% more FLOPs, KV cache as many bytes",
        ),
        (
            {"drafted_tokens": 8, "accepted_tokens": 6},
            "processed all 64 visual tokens in all 30 layers; 6 of 8 guessed tokens accepted: nothing saved",
        ),
    ],
)
def test_what_was_processed_and_saved(changes, words, capsys):
    show({**FOUND, **changes})
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("red")
    assert words in out


def test_a_model_without_a_policy_answers_all_the_same(model_folder, data_file, call, tmp_path):
    image = data_file.parent / "0.png"
    common = ["ask", "--model", model_folder, "--image", image, "--max-new-tokens", "3"]
    status, out, error = call(*common, "--json", tmp_path / "a.json", "what?")
    assert status == 0, error
    assert "answered without a policy" in out
    assert f"lookaway fit --model {model_folder} --data DATA" in out
    assert call(*common, "--exit-at", "2", "--json", tmp_path / "b.json", "what?")[0] == 0
    found, judge = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert found["answer"] == judge["answer_without"]


@pytest.mark.parametrize("policy", [(), ("--exit-at", "2")])
def test_a_drafted_answer_is_the_answer(policy, model_folder, data_file, call, tmp_path):
    image = data_file.parent / "0.png"
    common = ["ask", "--model", model_folder, "--image", image, "--max-new-tokens", "6", "--json", tmp_path / "a.json"]
    assert call(*common, *policy, "what?")[0] == 0
    plain = json.loads((tmp_path / "a.json").read_text())
    la.Twig(start=2, depth=1).save_pretrained(tmp_path / "twig")
    for draft in ("1", tmp_path / "twig"):
        status, out, error = call(*common, *policy, "--draft", draft, "what?")
        assert status == 0, error
        found = json.loads((tmp_path / "a.json").read_text())
        assert found["answer"] == plain["answer"]
        assert f"{found['accepted_tokens']} of {found['drafted_tokens']} guessed tokens accepted" in " ".join(
            out.split()
        )
    status, _, error = call(*common, "--draft", "99", "what?")
    assert status == 1
    assert "does not fit a decoder of" in " ".join(error.split())
