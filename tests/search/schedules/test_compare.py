"""The comparison at equal cost judges answers by the data's own scorer, as `lookaway eval` does."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.core.record import Sample
from lookaway.models.encoding import encode
from lookaway.search.schedules.compare import Entry, HeldOutEvaluator


def said(model, processor, sample, policy):
    inputs = encode(processor, [sample]).inputs
    with torch.no_grad(), la.attach(model, policy):
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=3)
    return processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def test_other_letters_than_the_truths_may_be_right():
    """Three of six truths are what the model says, in the other case: once the full model was right in none of them."""
    model, processor, draw = tiny("llava").model, tiny_processor(), np.random.default_rng(0)
    samples = []
    for number in range(6):
        picture = Image.fromarray(draw.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        content = [{"type": "image"}, {"type": "text", "text": f"what is {number}?"}]
        samples.append(Sample(str(number), [{"role": "user", "content": content}], (picture,)))
    own = [said(model, processor, sample, la.KeepAll()) for sample in samples]
    truths = [text.swapcase() if number % 2 == 0 else "nothing of it" for number, text in enumerate(own)]
    assert sum(text != truth for text, truth in zip(own, truths, strict=True)) > 3  # letters among them
    samples = [replace(sample, answer=truth) for sample, truth in zip(samples, truths, strict=True)]
    policy = la.KeepSchedule([1.0, 0.25, 0.25, 0.25], ranking="uniform")
    agree = [said(model, processor, sample, policy) == text for sample, text in zip(samples, own, strict=True)]
    held_out = HeldOutEvaluator(model, processor, samples, max_new_tokens=3)
    try:
        full, thin = held_out.take(la.KeepAll()), held_out.take(policy)
        row = held_out.row(Entry("thin", 0.5, policy, 0), thin, None)
    finally:
        held_out.close()
    assert (full["right"], full["agree"]) == ("101010", "111111")
    assert thin["agree"] == "".join(str(int(same)) for same in agree)
    assert thin["right"] == "".join(str(int(same and number % 2 == 0)) for number, same in enumerate(agree))
    assert row.retention.value == pytest.approx(thin["right"].count("1") / 3)
