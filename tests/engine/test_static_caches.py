"""Prompts that lost visual tokens, in caches of a fixed size: the same tokens as with the default cache."""

import pytest
import torch
from local_policies import Exit, Keep, Thin
from shared_tiny import OLD, RECIPES, tiny, tiny_once
from transformers import CompileConfig, StaticCache

import lookaway as la
from lookaway.core.errors import UnsupportedModel
from lookaway.engine.api import attach

pytestmark = pytest.mark.skipif(OLD, reason="static caches of transformers before 5.17 count their tokens elsewhere")

EXITS = [2, None, 1, 3]
POLICIES = {
    "asked but whole": lambda rows: Keep(),
    "exits": lambda rows: Exit(EXITS[:rows]),
    "thinned": lambda rows: Thin(),
    "before": lambda rows: la.UniformKeep(0.4, layer=0),
    "FastV": lambda rows: la.FastV(layer=2, ratio=0.5),
    "second look": lambda rows: la.SecondLook(la.ExitAt(1), la.ExitAt(3), threshold=0.02),
}
OPTIONS = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
DETAILS = {"output_scores": True, "return_dict_in_generate": True}


def fits(family):
    """Whether transformers gives this family a static cache of plain layers."""
    cache = StaticCache(tiny_once(family).model.config.get_text_config(), max_cache_len=8)
    return all(type(layer).__name__ == "StaticLayer" for layer in cache.layers)


def generated(model, inputs, policy, cache=None, **options):
    with torch.no_grad(), attach(model, policy):
        return model.generate(**inputs, **OPTIONS, **DETAILS, cache_implementation=cache, **options)


def test_most_families_have_plain_static_layers():
    assert {"llava", "llava_next", "qwen2_vl", "qwen3_vl", "internvl"} <= {f for f in RECIPES if fits(f)}


@pytest.mark.parametrize("family", list(RECIPES))
@pytest.mark.parametrize("name", ["exits", "before"])
def test_every_family(family, name):
    model = tiny_once(family)
    inputs = model.inputs("left_padded")
    policy = POLICIES[name](len(inputs["input_ids"]))
    if not fits(family) or family == "paligemma":  # its prompts see each other in both directions
        with pytest.raises(UnsupportedModel, match="default dynamic"):
            generated(model.model, inputs, policy, "static")
        return
    growing = generated(model.model, inputs, policy)
    fixed = generated(model.model, inputs, policy, "static")
    assert torch.equal(growing.sequences, fixed.sequences)
    torch.testing.assert_close(torch.stack(fixed.scores), torch.stack(growing.scores), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch", ["single", "left_padded", "right_padded"])
@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_policy_and_batch(name, batch, attention):
    model = tiny("llava", attn_implementation=attention)
    inputs = model.inputs(batch)
    policy = POLICIES[name](len(inputs["input_ids"]))
    growing = generated(model.model, inputs, policy)
    fixed = generated(model.model, inputs, policy, "static")
    assert torch.equal(growing.sequences, fixed.sequences)
    torch.testing.assert_close(torch.stack(fixed.scores), torch.stack(growing.scores), atol=1e-5, rtol=1e-5)


WAYS = {
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "temperature": 0.9},
    "several samples of a row": {"do_sample": True, "num_return_sequences": 2},
    "penalties": {"repetition_penalty": 1.3},
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_generate(way):
    model, found = tiny_once("llava"), []
    inputs, options = model.inputs("left_padded"), WAYS[way]
    copies = options.get("num_beams", options.get("num_return_sequences", 1))
    exits = [entry for entry in EXITS for _ in range(copies)]
    for cache in (None, "static"):
        torch.manual_seed(7)
        with torch.no_grad(), attach(model.model, Exit(exits)):
            found.append(model.model.generate(**inputs, **{**OPTIONS, **options}, cache_implementation=cache))
    assert torch.equal(*found)


def static_cache(model, columns=64):
    return StaticCache(model.config.get_text_config(), max_cache_len=columns)


def test_layers_that_lost_tokens_take_less_memory_and_text_goes_on_behind_them():
    model = tiny_once("llava")
    inputs, more = (
        model.inputs("left_padded"),
        torch.randint(10, 90, (4, 3), generator=torch.Generator().manual_seed(3)),
    )
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 3), value=1)
    found, length = [], inputs["input_ids"].shape[1]
    for cache in (None, static_cache(model.model)):
        with torch.no_grad(), attach(model.model, Exit(1)) as run:
            out = model.model(**inputs, past_key_values=cache, use_cache=True)
            later = model.model(input_ids=more, attention_mask=mask, past_key_values=out.past_key_values)
            found.append((out.logits, later.logits))
            slots = run.trace.cache_slots
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)
    assert out.past_key_values is cache
    assert [layer.keys.shape[2] for layer in cache.layers] == [64 - length + held for held in slots]
    assert slots[1] < slots[0] == length
    assert int(cache.get_seq_length()) == length + 3


def test_a_compiled_decode_says_the_same_whatever_was_compiled_before():
    """The graphs of one policy, or of none, are not those of another; each is whole, without breaks."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = CompileConfig(backend="eager", mode=None)
    compiled._compile_all_devices = True
    model = tiny("llava")
    inputs = model.inputs("left_padded")
    plain = model.model.generate(**inputs, **OPTIONS)
    assert torch.equal(plain, model.model.generate(**inputs, **OPTIONS, **{"cache_implementation": "static"}))
    for policy in (Exit(EXITS), la.FastV(2, 0.5), POLICIES["second look"](4)):
        growing = generated(model.model, inputs, policy)
        fixed = generated(model.model, inputs, policy, "static", compile_config=compiled)
        assert torch.equal(growing.sequences, fixed.sequences)
        again = model.model.generate(**inputs, **OPTIONS, cache_implementation="static", compile_config=compiled)
        assert torch.equal(again, plain)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 3
    assert not torch._dynamo.utils.counters["graph_break"]
    torch._dynamo.reset()


def test_what_cannot_be_filled_is_refused():
    model, inputs = tiny("llava").model, tiny("llava").inputs()
    with torch.no_grad(), attach(model, Exit(1)):
        with pytest.raises(UnsupportedModel, match=r"has room for 8 tokens and the prompt has \d+"):
            model(**inputs, past_key_values=static_cache(model, 8))
        cache = static_cache(model)
        model(**inputs, past_key_values=cache)
        with pytest.raises(UnsupportedModel, match="An image in a later turn"):
            model(**inputs, past_key_values=cache)
        with pytest.raises(UnsupportedModel, match="Make a new one"):
            cache.reset()
    anew = pytest.raises(UnsupportedModel, match="numbered anew")
    with torch.no_grad(), attach(model, la.UniformKeep(0.4, layer=0, positions="renumber")), anew:
        model(**inputs, past_key_values=static_cache(model))
    with torch.no_grad(), pytest.raises(RuntimeError):  # the policy is gone: an error, not another answer
        model(input_ids=inputs["input_ids"][:, -1:], past_key_values=cache)


def test_windows_and_offloaded_caches_are_refused():
    model, inputs = tiny("llava").model, tiny("llava").inputs()
    text = model.config.text_config
    text.sliding_window, text.layer_types = 6, ["sliding_attention"] * 4
    with torch.no_grad(), attach(model, Exit(1)), pytest.raises(UnsupportedModel, match="no sliding windows"):
        model(**inputs, past_key_values=static_cache(model))
