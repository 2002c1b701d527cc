"""Removal before decoders that allow no more: the decoder itself, on each row's shorter prompt, is the judge.

Real pictures, single rows and padded batches, and tokens decoded behind them.
"""

import pytest
import torch

import lookaway as la
from lookaway.anatomy.tiny import IMAGE, PAD, TINY, TINY_BEFORE, tiny
from lookaway.core.decision import Decision, Policy
from lookaway.core.errors import AttachError, UnsupportedModel
from lookaway.engine.entry_check import KeepSome, calls_of_decoder, outputs_of_row, row_by_hand
from lookaway.engine.replay.resume import pause
from lookaway.engine.replay.tape import record_tape

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
POLICIES = {
    "ragged": lambda: KeepSome([5, 0, 9, 20]),
    "conditional": lambda: la.CDPruner(0.4),
    "diverse": lambda: la.DivPrune(4),
    "uniform": lambda: la.UniformKeep(0.3, layer=0),
}
families = pytest.mark.parametrize("family", TINY_BEFORE)


def by_hand(model, policy, inputs, new):
    """(found, expected) states of the kept columns and of each token behind them, row by row."""
    anatomy = la.anatomy(model)
    with torch.no_grad():
        plain = calls_of_decoder(anatomy, inputs, new)
        with la.attach(model, policy) as run:
            short = calls_of_decoder(anatomy, inputs, new)
            index, valid = run.kept_columns()
        found, expected = [], []
        for row in range(len(new)):
            expected += row_by_hand(anatomy, plain, row, index[row, valid[row]])
            found += outputs_of_row(short, row, valid[row])
    return found, expected, run.trace


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("batch", ["single", "left_padded"])
@pytest.mark.parametrize("name", ["ragged", "conditional", "diverse", "uniform"])
@families
def test_is_the_shorter_prompt_built_by_hand(family, name, batch, attention):
    example = tiny(family, attn_implementation=attention)
    inputs = example.inputs(batch)
    new = torch.randint(10, 80, (len(inputs["input_ids"]), 3), generator=torch.Generator().manual_seed(1))
    found, expected, trace = by_hand(example.model, POLICIES[name](), inputs, new)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)
    assert trace.visual_tokens[0] == trace.visual_tokens[-1]
    assert sum(trace.visual_tokens[0]) < sum(trace.initial_visual_tokens)


@pytest.mark.parametrize("family", [*TINY, *TINY_BEFORE])
def test_keeping_all_changes_no_bit_and_detaching_leaves_nothing(family):
    example = tiny(family)
    inputs = example.inputs("left_padded")
    with torch.no_grad():
        plain = example.model(**inputs).logits
        hooks = hooks_of(example.model)
        for policy in (la.KeepAll(), KeepSome([99] * 4)):
            with la.attach(example.model, policy):
                assert torch.equal(example.model(**inputs).logits, plain)
        assert torch.equal(example.model(**inputs).logits, plain)
    assert hooks_of(example.model) == hooks


def hooks_of(model):
    """Some models of transformers hold hooks of their own, to collect their towers' states."""
    return [(*part._forward_pre_hooks.values(), *part._forward_hooks.values()) for part in model.modules()]


@families
def test_what_each_row_generates_is_what_it_generates_alone(family):
    example = tiny(family)
    inputs = example.inputs("left_padded")
    options = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6, "suppress_tokens": [IMAGE]}
    with la.attach(example.model, KeepSome([5, 3, 0, 9])) as run:
        together = example.model.generate(**inputs, **options)
        index, valid = run.kept_columns()
    anatomy = la.anatomy(example.model)
    new = together[:, inputs["input_ids"].shape[1] :]
    plain = calls_of_decoder(anatomy, inputs, new)
    with torch.no_grad():
        for row in range(4):
            states = row_by_hand(anatomy, plain, row, index[row, valid[row]])
            logits = torch.stack([anatomy.head(part[-1]) for part in states[:-1]])
            logits[:, IMAGE] = -torch.inf
            logits[:, example.model.generation_config.eos_token_id] = -torch.inf
            assert logits.argmax(-1).tolist() == new[row].tolist()


@families
def test_a_cache_says_its_full_length_and_holds_less(family):
    example = tiny(family)
    inputs = example.inputs()
    with torch.no_grad(), la.attach(example.model, la.UniformKeep(4, layer=0)) as run:
        cache = example.model(**inputs, use_cache=True).past_key_values
    held = [layer.keys.shape[2] for layer in cache.layers if getattr(layer, "keys", None) is not None]
    assert held
    assert set(held) == {run.trace.cache_slots[0]}
    assert cache.get_seq_length() == inputs["input_ids"].shape[1] > held[0]
    cost = run.trace.cost()
    assert cost.flops < cost.full_flops
    stored = [part for layer in cache.layers if getattr(layer, "keys", None) is not None
              for part in (layer.keys, layer.values)]  # fmt: skip
    assert cost.kv_bytes == sum(part.nbytes for part in stored)


class Merge(KeepSome):
    """All that leaves goes into what stays."""

    def decide(self, view):
        keep = super().decide(view).keep
        mean = torch.stack([row[visual].mean(0) for row, visual in zip(view.hidden, view.layout.visual, strict=True)])
        return Decision(keep=keep, values=mean[:, None].expand_as(view.hidden))


@families
def test_merged_values_enter(family):
    example = tiny(family)
    inputs, anatomy = example.inputs(), la.anatomy(example.model)
    with torch.no_grad():
        (plain,) = calls_of_decoder(anatomy, inputs, torch.zeros(1, 0, dtype=torch.int64))
        with la.attach(example.model, Merge([1])) as run:
            found = example.model(**inputs).logits
            index, _ = run.kept_columns()
        visual = inputs["input_ids"][0] == IMAGE
        embeds = plain["inputs_embeds"].clone()
        embeds[0, visual.nonzero()[0]] = embeds[0, visual].mean(0)
        (states,) = row_by_hand(anatomy, [{**plain, "inputs_embeds": embeds}], 0, index[0])
    torch.testing.assert_close(found[0], anatomy.head(states), **TOLERANCE)
    assert run.trace.visual_tokens[0] == [1]


@pytest.mark.parametrize("way", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}])
@families
def test_beams_and_samples_take_their_rows_along(family, way):
    example = tiny(family)
    inputs = example.inputs()
    with la.attach(example.model, la.UniformKeep(0.5, layer=0)):
        torch.manual_seed(0)
        first = example.model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, **way)
    assert first.shape[1] == inputs["input_ids"].shape[1] + 4


class Inside(Policy):
    def layers(self, num_layers, first_prunable):
        return (2,)

    def decide(self, view):
        return Decision()


@pytest.mark.parametrize(
    "make", [Inside, lambda: la.ExitAt(2), lambda: la.KeepSchedule((1.0, 1.0, 0.5, 0.5)), lambda: la.VTW(2)]
)
@families
def test_removal_inside_is_refused_with_the_reason_and_the_cure(family, make):
    model = tiny(family).model
    with pytest.raises(UnsupportedModel, match=r"Removal inside the decoder .*its (linear|conv).*la\.CDPruner"):
        la.attach(model, make())


@families
def test_what_needs_the_inside_is_refused(family):
    model = tiny(family).model
    inputs = tiny(family).inputs()
    with pytest.raises(UnsupportedModel, match=r"la\.reference, which masks is not possible"):
        la.reference(model, la.UniformKeep(0.5, layer=0))
    with pytest.raises(UnsupportedModel, match="Skipping attentions is not possible"):
        la.attach(model, la.AttentionSkip((3,)))
    for read in (pause, record_tape):  # what search, labels and analyses are made of
        with pytest.raises(UnsupportedModel, match="is not possible"):
            read(model, inputs)
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.modules())


@families
def test_decoding_behind_prompts_padded_on_the_right_is_refused(family):
    example = tiny(family)
    inputs = example.inputs("right_padded")
    new = torch.full((4, 1), 20)
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
    with torch.no_grad(), la.attach(example.model, la.UniformKeep(0.5, layer=0)):
        cache = example.model(**inputs, use_cache=True).past_key_values
        with pytest.raises(UnsupportedModel, match="padding_side = 'left'"):
            example.model(input_ids=new, attention_mask=mask, past_key_values=cache)


@families
def test_the_decoder_by_itself_is_refused(family):
    example = tiny(family)
    anatomy = la.anatomy(example.model)
    with la.attach(example.model, la.UniformKeep(0.5, layer=0)), pytest.raises(AttachError, match="outside of the"):
        anatomy.language_model(input_ids=torch.full((1, 3), PAD + 20))
