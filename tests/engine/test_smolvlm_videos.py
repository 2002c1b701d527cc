"""Videos as SmolVLM's own processor gives them (tests/fixtures/smolvlm/record.py), one and a batch of unequal lengths.

The frames are pictures between time stamps, and a video with fewer frames is filled up with frames of zeros, which the
processor's mask calls real and the model leaves out.
"""

import json
from pathlib import Path

import pytest
import torch
from shared_tiny import tiny, tiny_once

import lookaway as la
from lookaway.anatomy.tiny import IMAGE
from lookaway.engine.entry_check import KeepSome, calls_of_decoder, row_by_hand
from lookaway.engine.prefill.start import prompt_layout

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
RECORDED = json.loads((Path(__file__).parents[1] / "fixtures" / "smolvlm" / "videos.json").read_text("utf-8"))
FRAMES = {"single": [3], "batch": [3, 2]}
TOKENS = 16
"""Visual tokens of a frame."""
NEW = 4
batches = pytest.mark.parametrize("batch", FRAMES)


def recorded(batch):
    found = RECORDED[batch]
    pixels = torch.tensor(found["colours"])[..., None, None].expand(-1, -1, -1, *found["size"]).clone()
    inputs = {name: torch.tensor(found[name]) for name in ("input_ids", "attention_mask")}
    return {**inputs, "pixel_values": pixels, "pixel_attention_mask": torch.ones_like(pixels[:, :, 0]).long()}


@batches
def test_each_frame_is_a_picture_of_the_layout(batch):
    inputs = recorded(batch)
    assert set(inputs) == set(RECORDED[batch]["inputs"])
    layout = prompt_layout(la.anatomy(tiny_once("smolvlm").model), inputs)
    assert [[span.length for span in row] for row in layout.spans] == [[TOKENS] * n for n in FRAMES[batch]]
    for row, text in enumerate(RECORDED[batch]["text"]):
        assert text.count("Frame from") == FRAMES[batch][row]


@batches
def test_removal_inside_equals_masking(batch):
    model, inputs = tiny_once("smolvlm").model, recorded(batch)
    exits = [2, 3][: len(FRAMES[batch])]
    answers = []
    with torch.no_grad():
        with la.reference(model, la.ExitAt(exits)):
            expected = model(**inputs).logits
        with la.attach(model, la.ExitAt(exits)) as run:
            found = model(**inputs).logits
            index, valid = run.kept_columns()
        for how in (la.attach, la.reference):
            with how(model, la.ExitAt(exits)):
                answers.append(model.generate(**inputs, do_sample=False, max_new_tokens=NEW, suppress_tokens=[IMAGE]))
    assert run.trace.initial_visual_tokens == [TOKENS * frames for frames in FRAMES[batch]]
    wanted = expected.gather(1, index[..., None].expand(-1, -1, expected.shape[-1]))
    torch.testing.assert_close(found[valid], wanted[valid], **TOLERANCE)
    assert torch.equal(*answers)


@batches
def test_removal_before_the_decoder_is_the_shorter_prompt(batch):
    model, inputs = tiny("smolvlm").model.double(), recorded(batch)
    inputs["pixel_values"] = inputs["pixel_values"].double()
    anatomy, none = la.anatomy(model), torch.zeros(len(FRAMES[batch]), 0, dtype=torch.int64)
    with torch.no_grad():
        with la.attach(model, KeepSome([20, 5])) as run:  # of the first frame all, and a part of the second
            found = model(**anatomy.with_positions(inputs)).logits  # by hand they do not count padding either
            index, valid = run.kept_columns()
        plain = calls_of_decoder(anatomy, inputs, none)
        for row in range(len(none)):
            (states,) = row_by_hand(anatomy, plain, row, index[row, valid[row]])
            torch.testing.assert_close(found[row, valid[row]], anatomy.head(states), atol=1e-10, rtol=1e-10)
    assert run.trace.visual_tokens[0] == [20, 5][: len(none)]


@pytest.mark.parametrize("policy", [la.UniformKeep(0.25, layer=0), la.CDPruner(0.25)])
def test_methods_before_the_decoder_take_frames_as_pictures(policy):
    model, inputs = tiny_once("smolvlm").model, recorded("batch")
    with torch.no_grad(), la.attach(model, policy) as run:
        model(**inputs)
    assert run.trace.visual_tokens[0] == [12, 8]


def test_a_frame_reaches_the_answer_and_a_frame_of_zeros_does_not():
    model, inputs = tiny_once("smolvlm").model, recorded("batch")
    with torch.no_grad():
        found = model(**inputs).logits[:, -1]
        other = {**inputs, "pixel_values": inputs["pixel_values"].flip(2)}
        assert not torch.allclose(model(**other).logits[:, -1], found, atol=1e-3)
        alone = {name: value[1:] if value.dim() == 2 else value[1:, :2] for name, value in inputs.items()}
        torch.testing.assert_close(model(**alone).logits[:, -1], found[1:], **TOLERANCE)
