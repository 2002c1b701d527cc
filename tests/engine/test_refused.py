"""What would go wrong without a word: done right, or refused before anything runs."""

import copy
import io

import pytest
import torch
from local_policies import Attentive, Exit, Keep, KeepButAsk, Thin
from masked_by_hand import masked_by_hand
from transformers import DynamicCache, GenerationConfig

import lookaway as la
from lookaway.anatomy.tiny import IMAGE, tiny
from lookaway.core.errors import AttachError, UnsupportedModel
from lookaway.engine.api import attach, reference
from lookaway.engine.replay.resume import pause

GREEDY = {"do_sample": False, "max_new_tokens": 4, "min_new_tokens": 4, "suppress_tokens": [IMAGE]}
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def ending_with_image(example, kind):
    """A prompt whose last real column is an image token."""
    single = example.inputs("single")
    count = int((single["input_ids"] == IMAGE).sum())
    image = torch.full((1, count), IMAGE)
    text = torch.arange(20, 29)[None]
    ids = image if kind == "image only" else torch.cat([text, image], 1)
    mask = torch.ones_like(ids)
    if kind == "padded behind":
        ids, mask = torch.nn.functional.pad(ids, (0, 3), value=1), torch.nn.functional.pad(mask, (0, 3))
    return {**single, "input_ids": ids, "attention_mask": mask}


# the image at the very end of a prompt -------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["text and image", "image only", "padded behind"])
def test_the_last_column_stays_where_it_is_an_image_token(kind, attention):
    """Its row predicts the first answer token; it went on the state of the text before the image."""
    example = tiny("llava", attn_implementation=attention)
    inputs = ending_with_image(example, kind)
    last = int(inputs["attention_mask"].sum()) - 1
    image = inputs["input_ids"] == IMAGE
    image[0, last] = False
    for exits in (1, 3):
        layers = example.model.model.language_model.layers
        expected = masked_by_hand(example.model, layers, inputs, [exits], [IMAGE], image=image)[0, last]
        for how in (attach, reference):
            with torch.no_grad(), how(example.model, Exit(exits)) as run:
                logits = example.model(**inputs).logits
                index, valid = run.kept_columns()
            at = int((index[0] == last).nonzero()) if how is attach else last
            torch.testing.assert_close(logits[0, at], expected, **TOLERANCE)
            assert run.trace.exit_layers == [exits]
            assert valid[0].any()
            assert run.trace.visual_tokens[0] == [int(image.sum())]


@pytest.mark.parametrize("kind", ["text and image", "image only"])
@pytest.mark.parametrize(
    "make", [lambda: Exit(1), lambda: Exit(3), Thin, Attentive, lambda: la.KeepSchedule((1.0, 0.5, 0.25, 0))]
)
def test_generation_behind_an_image_equals_masking(kind, make):
    example = tiny("llava")
    inputs = ending_with_image(example, kind)
    found = []
    for how in (attach, reference):
        with how(example.model, make()):
            found.append(example.model.generate(**inputs, **GREEDY))
    assert torch.equal(*found)
    start, _ = pause(example.model, inputs)
    with torch.no_grad(), attach(example.model, make()):
        logits = example.model(**inputs).logits[:, -1]
    last = torch.tensor([[inputs["input_ids"].shape[1] - 1]])
    torch.testing.assert_close(start.run(make()).logits(last)[:, 0], logits, **TOLERANCE)


# prompts in pieces ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: Exit(1), Attentive, lambda: la.KeepSchedule((1.0, 0.5, 0.5, 0.25))])
def test_chunked_prefill_is_refused_before_the_first_chunk(make):
    example, ran = tiny("llava"), []
    config = copy.deepcopy(example.model.generation_config)
    config.prefill_chunk_size = 8
    with attach(example.model, make()):
        hook = example.model.model.register_forward_pre_hook(lambda module, args: ran.append(1))
        for options in ({"prefill_chunk_size": 8}, {"generation_config": config}):
            with pytest.raises(UnsupportedModel, match=r"prefill_chunk_size=8 cuts the prompt"):
                example.model.generate(**example.inputs(), **options)
        hook.remove()
        assert not ran
        example.model.generate(**example.inputs(), **GREEDY)
    assert "generate" not in vars(example.model)


@pytest.mark.parametrize("make", [Keep, lambda: la.AttentionSkip((0, 2))])
def test_chunked_prefill_under_what_needs_no_whole_prompt(make):
    example = tiny("llava")
    with attach(example.model, make()):
        whole = example.model.generate(**example.inputs(), **GREEDY)
        try:
            pieces = example.model.generate(**example.inputs(), **GREEDY, prefill_chunk_size=8)
        except ValueError as error:
            pytest.skip(f"this transformers cannot: {error}")
    assert torch.equal(whole, pieces)


# drafts behind earlier turns -----------------------------------------------------------------------------------------


def second_turn(example):
    """The cache of a first turn, and the whole conversation with four more tokens."""
    inputs = example.inputs()
    with torch.no_grad():
        cache = example.model(**inputs, use_cache=True).past_key_values
    ids = torch.cat([inputs["input_ids"], torch.tensor([[20, 21, 20, 21]])], 1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "past_key_values": cache}


@pytest.mark.parametrize("how", ["argument", "config", "the model's own config"])
@pytest.mark.parametrize("option", ["prompt_lookup_num_tokens", "assistant_early_exit", "assistant_model"])
@pytest.mark.parametrize("make", [lambda: Exit(1), lambda: la.AttentionSkip((2,))])
def test_transformers_own_drafting_behind_a_filled_cache_is_refused(make, option, how):
    """It answered something else, without an error."""
    example = tiny("llava")
    value = tiny("llava", num_layers=2).model if option == "assistant_model" else 2
    with attach(example.model, make()):
        given = second_turn(example)
        if how == "argument" or option == "assistant_model":
            options = {option: value}
        elif how == "config":
            options = {"generation_config": GenerationConfig(**{option: value})}
        else:
            options = {}
            setattr(example.model.generation_config, option, value)
        with pytest.raises(UnsupportedModel, match=rf"generate\({option}=.*\(27 tokens\).* without past_key_values"):
            example.model.generate(**given, **options, max_new_tokens=3)
        off = {option: None} if how == "the model's own config" and option != "assistant_model" else {}
        plain = example.model.generate(**second_turn(example), **GREEDY, **off)
        assert plain.shape[1] == 27 + 4 + 4
        if option == "prompt_lookup_num_tokens":  # at the start of a cache it is right
            whole = {**example.inputs(), **{n: given[n] for n in ("input_ids", "attention_mask")}}
            drafted = example.model.generate(**whole, **GREEDY, **{option: value})
            assert torch.equal(drafted, example.model.generate(**whole, **GREEDY, **{option: None}))


def test_why_it_is_refused():
    """transformers' fault without lookaway: the cache holds the conversation twice. Where this fails it was mended, and
    `watch_generate` need not refuse it any more."""
    example = tiny("llava")
    given = second_turn(example)
    example.model.generate(**given, **GREEDY, prompt_lookup_num_tokens=2)
    assert given["past_key_values"].get_seq_length() > 27 + 4 + 4


# compiled ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part",
    ["", "model", "model.language_model", "model.language_model.layers.1", "model.language_model.layers.1.self_attn"],
)
def test_a_compiled_forward_is_refused(part):
    model = tiny("llava").model
    module = model.get_submodule(part)
    module.forward = torch.compile(module.forward)
    for how in (attach, reference):
        with pytest.raises(UnsupportedModel, match=rf"{part.replace('.', '[.]')} is compiled \(torch.compile\)"):
            how(model, Exit(1))


def test_a_compiled_vision_tower_is_not():
    model = tiny("llava").model
    model.model.vision_tower.forward = torch.compile(model.model.vision_tower.forward, backend="eager")
    attach(model, Exit(1)).detach()


# handles and copies --------------------------------------------------------------------------------------------------


def test_a_with_block_that_has_ended_does_not_begin_again():
    model = tiny("llava").model
    for how in (attach, reference):
        run = how(model, Exit(1))
        with run:
            pass
        with pytest.raises(AttachError, match="has ended, and the policy is off"), run:
            pass
        run = how(model, Exit(1))
        with run, pytest.raises(AttachError, match="is open already"), run:
            pass


def test_a_copy_of_an_attached_model_is_refused():
    example = tiny("llava")
    for how, policy in ((attach, Exit(1)), (reference, Exit(1)), (attach, la.AttentionSkip((2,)))):
        with how(example.model, policy) as run:
            with pytest.raises(AttachError, match="a copy would keep its hooks"):
                copy.deepcopy(example.model)
            with pytest.raises(AttachError, match="cannot be pickled"):
                torch.save(example.model, io.BytesIO())
            with torch.no_grad():
                example.model(**example.inputs())
            assert run.trace.visual_tokens[0] == [16]
    other = copy.deepcopy(example.model)
    with torch.no_grad(), attach(example.model, Exit(1)):
        whole = other(**example.inputs()).logits
        assert whole.shape[1] == example.inputs()["input_ids"].shape[1]


def test_a_replica_of_an_attached_model_is_refused():
    """As nn.DataParallel makes them: the same hooks on other modules, in threads of their own."""
    example = tiny("llava")
    with attach(example.model, KeepButAsk()):
        replica = copy.copy(example.model.model)
        with pytest.raises(UnsupportedModel, match="torchrun"):
            replica(**example.inputs())


# caches --------------------------------------------------------------------------------------------------------------


def test_a_cache_goes_on_only_as_it_was_filled():
    example = tiny("llava")
    inputs = example.inputs()
    more = {"input_ids": torch.tensor([[20]]), "attention_mask": torch.ones(1, 28, dtype=torch.int64)}
    for first, second, name in ((attach, reference, "la.attach"), (reference, attach, "la.reference")):
        with torch.no_grad(), first(example.model, Exit(1)):
            cache = example.model(**inputs, use_cache=True).past_key_values
        with torch.no_grad(), second(example.model, Exit(1)), pytest.raises(AttachError, match=f"under {name}"):
            example.model(**more, past_key_values=cache)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("batch", ["single", "left_padded"])
def test_a_cache_that_lost_columns_stays_marked_and_goes_on_rightly_or_not_at_all(attention, batch):
    """After detaching, too: its layers hold different columns. A cache that lost nothing is as transformers made it."""
    example = tiny("llava", attn_implementation=attention)
    inputs = example.inputs(batch)
    rows = len(inputs["input_ids"])
    new = torch.full((rows, 1), 20)
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
    with torch.no_grad(), attach(example.model, Exit(1)):
        cache = example.model(**inputs, use_cache=True).past_key_values
        again = copy.deepcopy(cache)
        expected = example.model(input_ids=new, attention_mask=mask, past_key_values=cache).logits
    assert isinstance(again, DynamicCache)
    assert type(again) is not DynamicCache
    more = {"input_ids": new, "attention_mask": mask, "past_key_values": again}
    if attention == "sdpa" and batch == "single":  # no mask, so nothing depends on how much each layer holds
        with torch.no_grad():
            torch.testing.assert_close(example.model(**more).logits, expected, **TOLERANCE)
    else:
        with torch.no_grad(), pytest.raises(RuntimeError, match="must match the size"):
            example.model(**more)
    with torch.no_grad(), attach(example.model, KeepButAsk()):
        assert type(example.model(**inputs, use_cache=True).past_key_values) is DynamicCache
