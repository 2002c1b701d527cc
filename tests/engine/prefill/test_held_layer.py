"""Frozen visual tokens: the layer on the text alone equals the layer run whole with the frozen rows put back."""

import threading

import pytest
import torch
from local_policies import Attentive, Exit, Thin
from shared_tiny import families, thorough_families, tiny_once
from transformers import StaticCache

import lookaway as la
from lookaway.anatomy.find import anatomy_of
from lookaway.anatomy.tiny import IMAGE, VIDEO, tiny
from lookaway.anatomy.tiny.tiled import INDICATORS
from lookaway.core.decision import KEEP, Policy
from lookaway.core.errors import AttachError, SettingsError, UnsupportedModel
from lookaway.evaluation.cost import counted_flops

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
GREEDY = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6,
          "suppress_tokens": [IMAGE, VIDEO, *INDICATORS], "return_dict_in_generate": True,
          "output_logits": True}  # fmt: skip


class Hold(Policy):
    """Freezes visual tokens and removes nothing."""

    name = "hold"

    def __init__(self, *held):
        self.held = held

    def layers(self, num_layers, first_prunable):
        return ()

    def holds(self, num_layers):
        return self.held

    def decide(self, view):
        return KEEP


HELD = {
    "some": lambda: Hold(0, 2),
    "all": lambda: Hold(0, 1, 2, 3),
    "thinned": lambda: la.chain(Thin((0, 2)), Hold(0, 1, 3)),
    "leaving": lambda: la.chain(Hold(0, 1, 2), Exit(2)),
}


def put_back_by_hand(model, layers, held, visual, inputs):
    """Logits of a stock model whose layers `held` run whole and are then undone at `visual` bool [B, S]."""

    def undo(layer, args, kwargs, output):
        before = args[0] if args else kwargs["hidden_states"]
        return torch.where(visual[:, :, None], before, output)

    hooks = [layers[index].register_forward_hook(undo, with_kwargs=True) for index in held]
    try:
        with torch.no_grad():
            return model(**inputs).logits
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("batch", ["single", "left_padded", "right_padded"])
@families
def test_equals_the_stock_model_with_the_frozen_rows_put_back(family, batch, attention):
    example = tiny_once(family, attn_implementation=attention)
    model, anatomy, inputs = example.model, anatomy_of(example.model), example.inputs(batch)
    layout = anatomy.layout(inputs["input_ids"], inputs["attention_mask"])
    with torch.no_grad():
        plain = model(**inputs).logits
        with la.attach(model, Hold(0, 2)) as run:
            found = model(**inputs).logits
    expected = put_back_by_hand(model, anatomy.layers, (0, 2), layout.visual, inputs)
    real = ~layout.padding
    torch.testing.assert_close(found[real], expected[real], **TOLERANCE)
    assert (found - plain)[real].abs().max() > 1e-4  # freezing matters to this model
    assert not torch.isnan(found).any()
    assert run.trace.held == [0, 2]
    assert run.trace.visual_tokens == [run.trace.initial_visual_tokens] * 4
    with torch.no_grad():  # and it is off again
        assert torch.equal(model(**inputs).logits, plain)


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("batch", ["single", "left_padded", "right_padded"])
@thorough_families
def test_equals_the_reference_and_decodes_like_it(family, batch, name):
    example = tiny_once(family)
    model, inputs = example.model, example.inputs(batch)
    with torch.no_grad():
        with la.attach(model, HELD[name]()) as fast:
            short = model(**inputs).logits
        with la.reference(model, HELD[name]()) as slow:
            masked = model(**inputs).logits
    assert fast.trace == slow.trace
    index, valid = fast.kept_columns()
    same = masked.gather(1, index[..., None].expand(-1, -1, masked.shape[-1]))
    torch.testing.assert_close(short[valid], same[valid], **TOLERANCE)
    if batch == "right_padded":
        return
    with la.attach(model, HELD[name]()):
        ours = model.generate(**inputs, **GREEDY)
    with la.reference(model, HELD[name]()):
        theirs = model.generate(**inputs, **GREEDY)
    assert torch.equal(ours.sequences, theirs.sequences)
    torch.testing.assert_close(torch.stack(ours.logits), torch.stack(theirs.logits), **TOLERANCE)


@thorough_families
def test_a_batch_equals_its_rows_and_cached_equals_uncached(family):
    example = tiny_once(family)
    model, inputs = example.model, example.inputs("left_padded")
    with torch.no_grad(), la.attach(model, Hold(0, 2)):
        whole = model(**inputs, use_cache=True)
        without = model(**inputs, use_cache=False)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(whole.logits[real], without.logits[real], **TOLERANCE)
    assert {layer.get_seq_length() for layer in whole.past_key_values.layers} == {inputs["input_ids"].shape[1]}


def test_a_later_turn_freezes_its_own_images():
    example = tiny("llava")
    model, inputs = example.model, example.inputs("single")
    ids = inputs["input_ids"]
    twice = {"input_ids": torch.cat([ids, ids], 1), "pixel_values": torch.cat([inputs["pixel_values"]] * 2)}
    with torch.no_grad(), la.attach(model, Hold(0, 2)):
        at_once = model(**twice).logits[:, ids.shape[1] :]
        first = model(input_ids=ids, pixel_values=inputs["pixel_values"], use_cache=True)
        then = model(
            input_ids=ids, pixel_values=inputs["pixel_values"], past_key_values=first.past_key_values,
            attention_mask=torch.ones(1, 2 * ids.shape[1], dtype=torch.long),
        ).logits  # fmt: skip
    torch.testing.assert_close(then, at_once, **TOLERANCE)


def test_static_caches_stay_possible_because_nothing_leaves():
    example = tiny("llava")
    model, inputs = example.model, example.inputs("left_padded")
    with la.attach(model, Hold(0, 2)):
        usual = model.generate(**inputs, **GREEDY)
        static = model.generate(**inputs, **GREEDY, cache_implementation="static")
    assert isinstance(static.past_key_values, StaticCache)
    assert torch.equal(usual.sequences, static.sequences)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "aya_vision", "gemma3"])
def test_the_flops_that_it_claims_to_save_are_not_run(family, attention):
    example = tiny_once(family, attn_implementation=attention)
    model, inputs = example.model, example.inputs("single")
    full = counted_flops(lambda: model(**inputs))
    with la.attach(model, Hold(0, 2, 3)) as run:
        held = counted_flops(lambda: model(**inputs))
    cost = run.trace.cost()
    assert full - held == cost.full_flops - cost.flops > 0
    assert cost.kv_share == 1


def test_gradients_reach_the_image_through_frozen_layers():
    example = tiny("llava")
    model, inputs = example.model, example.inputs("single")
    pixels = inputs["pixel_values"].clone().requires_grad_(True)
    found = []
    for how in (la.attach, la.reference):
        with how(model, Hold(0, 2)):
            model(**{**inputs, "pixel_values": pixels}).logits[:, -1].sum().backward()
        found.append(pixels.grad.clone())
        pixels.grad = None
    assert found[0].abs().max() > 0
    torch.testing.assert_close(*found, **TOLERANCE)


def test_threads_do_not_disturb_each_other():
    example = tiny("llava")
    model, inputs = example.model, example.inputs("left_padded")
    with la.attach(model, Hold(0, 1, 2)):
        with torch.no_grad():
            alone = model(**inputs).logits
        found = []

        def call():
            with torch.no_grad():
                found.append(model(**inputs).logits)

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 4
    assert all(torch.equal(one, alone) for one in found)


def test_what_cannot_be_done_is_refused_with_the_cure():
    example = tiny("llava")
    model = example.model
    with pytest.raises(AttachError, match="layers 0 to 3"):
        la.attach(model, Hold(0, 4))
    with pytest.raises(SettingsError, match="has 4"):
        la.attach(model, la.ShortV([0, 4]))
    with pytest.raises(AttachError, match=r"skips the attention of layers \[2\] and freezes"):
        la.attach(model, la.chain(Hold(1, 2), la.AttentionSkip((2,))))
    with pytest.raises(AttachError, match=r"ranks by attention before layers \[3\].*'uniform'"):
        la.attach(model, la.chain(Hold(2), Attentive((1, 3))))
    with pytest.raises(SettingsError, match="second look cannot freeze"):
        la.attach(model, la.SecondLook(la.ExitAt(1), la.chain(Hold(1), la.ExitAt(3)), threshold=0.5))
    model.gradient_checkpointing_enable()
    with la.attach(model, Hold(1)), pytest.raises(UnsupportedModel, match="gradient_checkpointing_disable"):
        model(**example.inputs("single"))
    model.gradient_checkpointing_disable()
    model.set_attn_implementation({"text_config": "flex_attention"})
    with pytest.raises(UnsupportedModel, match="attn_implementation='sdpa'"):
        la.attach(model, Hold(1))
