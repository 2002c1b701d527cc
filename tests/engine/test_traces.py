"""What a run says of itself: one entry a layer, the trace of the last prompt with an image, no false warning."""

import warnings

import pytest
import torch
from local_policies import Exit, Thin

from lookaway.anatomy.inputs import holds_images
from lookaway.anatomy.tiny import IMAGE, tiny
from lookaway.engine.api import attach, reference
from lookaway.engine.prefill import row_groups as groups

GREEDY = {"do_sample": False, "max_new_tokens": 4, "min_new_tokens": 4, "suppress_tokens": [IMAGE]}


@pytest.mark.parametrize("by_config", [False, True])
@pytest.mark.parametrize("make", [lambda: Exit([1, 2, None, 3]), Thin])
def test_output_attentions_has_one_entry_a_layer(make, by_config, monkeypatch):
    monkeypatch.setitem(groups.CALL, "cpu", 0)  # rows run in as many groups as there can be
    example = tiny("llava", attn_implementation="eager")
    inputs = example.inputs("left_padded")
    options = {} if by_config else {"output_attentions": True}
    example.model.config.text_config.output_attentions = by_config

    def maps():
        if by_config:  # of the decoder alone
            example.model.config.output_attentions = True
        with torch.no_grad():
            return example.model(**inputs, **options).attentions

    assert len(maps()) == 4
    with attach(example.model, make()) as run:
        found = maps()
    assert [part.shape[2] for part in found] == run.trace.cache_slots
    assert [part.shape[3] for part in found] == run.trace.cache_slots
    assert {len(part) for part in found} == {4}
    with reference(example.model, make()):
        assert len(maps()) == 4


def test_the_trace_is_of_the_last_prompt_with_an_image():
    """Guidance runs a second, unconditional pass, which ends last and has no image."""
    example = tiny("llava")
    inputs = example.inputs()
    with attach(example.model, Exit(2)) as run, warnings.catch_warnings():
        warnings.simplefilter("error")
        example.model.generate(**inputs, **GREEDY, guidance_scale=1.5)
    assert run.trace.exit_layers == [2]
    assert [trace.exit_layers for trace in run.traces] == [[2], [None]]
    assert run.traces[1].nothing_to_drop


def test_a_follow_up_of_text_keeps_the_trace_and_does_not_warn():
    example = tiny("llava")
    inputs = example.inputs()
    with attach(example.model, Exit(2)) as run, warnings.catch_warnings():
        warnings.simplefilter("error")
        first = example.model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
        trace = run.trace
        ids = torch.cat([first.sequences, torch.tensor([[20, 21, 22]])], 1)
        mask = torch.ones_like(ids)
        cache = first.past_key_values
        example.model.generate(input_ids=ids, attention_mask=mask, past_key_values=cache, **GREEDY)
        with torch.no_grad():  # as `generate` calls it, with encoder outputs of nothing
            new = torch.tensor([[30]])
            longer = torch.ones(1, cache.get_seq_length() + 1, dtype=torch.int64)
            example.model(input_ids=new, attention_mask=longer, past_key_values=cache, mm_encoder_outputs={})
        assert run.trace == trace
        assert trace.exit_layers == [2]
        assert len(run.traces) == 1


def test_a_new_prompt_of_text_only_is_a_trace_of_its_own_but_not_the_latest():
    example = tiny("llava")
    text = {"input_ids": torch.tensor([[20, 21, 22]]), "attention_mask": torch.ones(1, 3, dtype=torch.int64)}
    with torch.no_grad(), attach(example.model, Exit(2)) as run:
        with pytest.warns(UserWarning, match="no row of this batch has a visual token"):
            example.model(**text)
        assert run.trace.nothing_to_drop
        example.model(**example.inputs())
        example.model(**text)
        index, _ = run.kept_columns()
    assert index.shape == (1, 3)  # of the latest prompt, whose logits these are
    assert run.trace.exit_layers == [2]
    assert [trace.nothing_to_drop for trace in run.traces] == [True, False, True]


def test_which_inputs_hold_images():
    assert holds_images({"pixel_values": torch.zeros(1)})
    assert holds_images({"mm_encoder_outputs": {"image": object(), "video": None}})
    for nothing in ({}, {"pixel_values": None}, {"mm_encoder_outputs": {}}, {"mm_encoder_outputs": {"image": None}}):
        assert not holds_images(nothing)
