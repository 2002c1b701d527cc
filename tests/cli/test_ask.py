"""What `lookaway ask` says of the looking away."""

import pytest

from lookaway.cli.ask import show

FOUND = {
    "answer": "red",
    "num_layers": 30,
    "visual_tokens": 64,
    "mean_visual_tokens": 64.0,
    "prefill_flops_share": 1.0,
    "kv_bytes_share": 1.0,
    "exit_layer": None,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "64 visual tokens through all 30 layers: nothing saved"),
        (
            {"mean_visual_tokens": 20.2, "prefill_flops_share": 0.6, "kv_bytes_share": 0.5},
            "20 of 64 visual tokens in the mean layer of 30; prefill 40% fewer FLOPs, KV cache 50% smaller",
        ),
        ({"exit_layer": 9, "mean_visual_tokens": 19.2}, "looked away before layer 9 of 30: 64 visual tokens left"),
    ],
)
def test_what_was_saved(changes, words, capsys):
    show({**FOUND, **changes})
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("red")
    assert words in out
