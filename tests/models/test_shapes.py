"""Published shapes with random weights: as many parameters as the checkpoints, prompts that fit, ratios that stay."""

import pytest
import torch

import lookaway as la
from lookaway.core.errors import SettingsError
from lookaway.models.shapes.published import SHAPES, build_shape, parameters_of
from lookaway.models.shapes.sizes import Decoder, Tower


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_exactly_the_parameters_of_its_checkpoint(name):
    assert parameters_of(name) == SHAPES[name].parameters


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "llava-1.5-13b"])
def test_a_small_shape_runs_on_its_prompt_and_its_visual_tokens_leave(name):
    found = build_shape(name, 0.01, device="cpu")
    inputs = found.inputs(1, 6)
    with torch.no_grad(), la.attach(found.model, la.ExitAt(3)) as run:
        out = found.model.generate(**inputs, do_sample=False, min_new_tokens=2, max_new_tokens=2)
    whole = SHAPES[name].visual_tokens
    assert out.shape[1] == whole + 6 + 2
    assert [layer[0] for layer in run.trace.visual_tokens] == [whole] * 3 + [0]


def test_a_smaller_scale_keeps_the_ratios():
    half = Decoder(28, 28, 4, 128, 18944, 152064).scaled(0.5)
    assert half == Decoder(14, 14, 2, 128, 9472, 76032)
    assert Decoder(28, 28, 4, 128, 18944, 152064).scaled(0.01) == Decoder(4, 7, 1, 128, 4736, 1521)
    assert Tower(24, 16, 1024, 4096).scaled(0.25) == Tower(6, 4, 256, 1024)


def test_weights_and_prompt_are_the_same_every_time():
    one, other = (build_shape("llava-1.5-7b", 0.01, device="cpu") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))
    assert all(torch.equal(value, other.inputs(2)[name]) for name, value in one.inputs(2).items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("llava-7b",), "Did you mean llava-"), (("zzz",), "Known: llava-1.5-7b"), (("smolvlm-2b", 0), "above 0"),
     (("smolvlm-2b", 1.5), "at most 1")],
)  # fmt: skip
def test_what_is_no_shape_is_refused(arguments, words):
    with pytest.raises(SettingsError, match=words):
        build_shape(*arguments, device="cpu")


def test_what_does_not_fit_is_refused_with_the_cure(monkeypatch):
    monkeypatch.setattr("lookaway.models.shapes.published._free_memory", lambda: 10**9)
    with pytest.raises(
        SettingsError, match=r"28\.3 GB of weights, and 1\.0 GB are free on cpu\. Give a smaller --scale"
    ):
        build_shape("llava-1.5-7b", device="cpu")


def test_a_prompt_has_words_on_both_sides_of_the_picture():
    with pytest.raises(SettingsError, match="--text-tokens must be at least 2, not 1"):
        build_shape("llava-1.5-7b", 0.01, device="cpu").inputs(1, 1)
