"""Tokens numbered anew: the shorter prompt at its positions, built by hand; what comes later goes on from there.

Families that count one by one; those that count time, row and column are in test_renumbering_on_grids.py.
"""

from dataclasses import replace

import pytest
import torch
from shared_tiny import tiny_once
from test_removal_before_decoder import called_with, scale, shorter

import lookaway as la
from lookaway.anatomy.find import anatomy_of
from lookaway.anatomy.tiny import IMAGE, TINY, VIDEO, tiny
from lookaway.anatomy.tiny.tiled import INDICATORS
from lookaway.core.decision import Decision, Policy
from lookaway.core.errors import SettingsError, UnsupportedModel
from lookaway.engine.prefill.renumbering import check_renumbering
from lookaway.engine.replay.resume import pause

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
GRIDS = {name for name in TINY if anatomy_of(tiny_once(name).model).grid_rotary is not None}
WINDOWS = {name for name in TINY if anatomy_of(tiny_once(name).model).has_windows}
FAMILIES = sorted(set(TINY) - GRIDS - WINDOWS)
POLICY = la.DivPrune(0.4, positions="renumber")


def plain(cut):
    """The same arguments at positions that count one by one, from where the first was."""
    first = int(cut["position_ids"].min())
    count = cut["inputs_embeds"].shape[1]
    return {**cut, "position_ids": torch.arange(first, first + count)[None]}


def logits_of(model, anatomy, states):
    logits, cap = anatomy.head(states), anatomy.softcap
    return (logits if cap is None else torch.tanh(logits / cap) * cap) * scale(model)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", ["left_padded", "right_padded"])
def test_is_the_shorter_prompt_at_plain_positions(family, batch):
    example = tiny_once(family)
    model, anatomy = example.model, anatomy_of(example.model)
    inputs = anatomy.with_positions(example.inputs(batch))
    kwargs = called_with(model, inputs)
    with torch.no_grad():
        with la.attach(model, POLICY) as run:
            found = model(**inputs).logits
        with la.attach(model, la.DivPrune(0.4)) as original:
            others = model(**inputs).logits
        with la.reference(model, POLICY) as masking:
            masked = model(**inputs).logits
    index, valid = run.kept_columns()
    assert torch.equal(index, original.kept_columns()[0])
    assert run.trace == masking.trace
    same = masked.gather(1, index[..., None].expand_as(found))
    torch.testing.assert_close(found[valid], same[valid], **TOLERANCE)
    assert (found - others)[valid].abs().max() > 1e-5  # positions matter to this model
    for row in range(4):
        cut = plain(shorter(kwargs, row, index[row, valid[row]]))
        with torch.no_grad():
            out = anatomy.language_model(**cut)
        torch.testing.assert_close(
            found[row, valid[row]], logits_of(model, anatomy, out.last_hidden_state)[0], **TOLERANCE
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_goes_on_behind_the_shorter_prompt(family):
    """Greedy answers of a batch against the decoder called by hand, a row and a token at a time."""
    example = tiny_once(family)
    model, anatomy = example.model, anatomy_of(example.model)
    inputs = example.inputs("left_padded")
    kwargs = called_with(model, anatomy.with_positions(inputs))
    with la.attach(model, POLICY) as run:
        out = model.generate(
            **inputs, do_sample=False, max_new_tokens=5, min_new_tokens=5, return_dict_in_generate=True,
            output_logits=True, suppress_tokens=[IMAGE, VIDEO, *INDICATORS],
        )  # fmt: skip
    index, valid = run.kept_columns()
    said = out.sequences[:, inputs["input_ids"].shape[1] :]
    decoder = anatomy.language_model
    for row in range(4):
        cut = plain(shorter(kwargs, row, index[row, valid[row]]))
        with torch.no_grad():
            past = decoder(**cut)
            for step in range(5):
                logits = logits_of(model, anatomy, past.last_hidden_state[:, -1])[0]
                torch.testing.assert_close(out.logits[step][row], logits, **TOLERANCE)
                after = cut["position_ids"].amax() + 1 + step
                past = decoder(
                    inputs_embeds=embedded(decoder, said[row : row + 1, step : step + 1]),
                    past_key_values=past.past_key_values, position_ids=after[None, None],
                )  # fmt: skip


def embedded(decoder, ids):
    return decoder.get_input_embeddings()(ids)


@pytest.mark.parametrize("way", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}, {"use_cache": False}])
def test_ways_to_generate_equal_the_reference(way):
    example = tiny_once("llava")
    inputs = example.inputs("left_padded")
    policy = la.chain(la.CDPruner(0.5, positions="renumber"), la.ExitAt([2, None, 3, None]))
    if "num_beams" in way:
        policy = la.chain(la.CDPruner(0.5, positions="renumber"), la.ExitAt(2))
    found = []
    for how in (la.attach, la.reference):
        with how(example.model, policy):
            found.append(example.model.generate(**inputs, do_sample=False, max_new_tokens=6, **way))
    assert torch.equal(*found)


def test_a_later_turn_is_the_conversation_in_one_prompt():
    """Two turns with a picture each, against the decoder called by hand with both shorter prompts in a row."""
    example = tiny("llava")
    model, anatomy, inputs = example.model, anatomy_of(example.model), example.inputs("single")
    length = inputs["input_ids"].shape[1]
    kwargs = called_with(model, inputs)
    with torch.no_grad(), la.attach(model, POLICY) as run:
        first = model(**inputs, use_cache=True)
        one, _ = run.kept_columns()
        more = {"attention_mask": torch.ones(1, 2 * length, dtype=torch.long), "use_cache": True}
        second = model(**{**inputs, **more}, past_key_values=first.past_key_values)
        two, _ = run.kept_columns()
        word = model(input_ids=torch.tensor([[17]]), past_key_values=second.past_key_values)
    embeds = torch.cat([kwargs["inputs_embeds"][:, one[0]], kwargs["inputs_embeds"][:, two[0]],
                        embedded(anatomy.language_model, torch.tensor([[17]]))], 1)  # fmt: skip
    with torch.no_grad():
        out = anatomy.language_model(inputs_embeds=embeds, position_ids=torch.arange(embeds.shape[1])[None])
    whole = logits_of(model, anatomy, out.last_hidden_state)
    torch.testing.assert_close(second.logits, whole[:, one.shape[1] : -1], **TOLERANCE)
    torch.testing.assert_close(word.logits, whole[:, -1:], **TOLERANCE)


@pytest.mark.parametrize("family", sorted(WINDOWS))
def test_sliding_windows_are_refused(family):
    with pytest.raises(UnsupportedModel, match=r"sliding-window.*positions='original'"):
        la.attach(tiny_once(family).model, POLICY)


def test_a_family_of_which_nobody_said_how_it_counts_is_refused():
    example = tiny_once("llava")
    unknown = replace(anatomy_of(example.model), first_position=None)
    with pytest.raises(UnsupportedModel, match=r"by the common pattern alone.*positions='original'"):
        check_renumbering(unknown, la.chain(POLICY, la.ExitAt(2)))
    check_renumbering(unknown, la.DivPrune(0.4))


def test_a_second_look_is_refused():
    for policies in ((POLICY, la.KeepAll()), (la.DivPrune(0.2), la.chain(POLICY))):
        with pytest.raises(SettingsError, match=r"cannot number positions anew.*positions='original'"):
            la.SecondLook(*policies)


def test_a_run_that_goes_on_from_stored_states_numbers_anew_too():
    example = tiny_once("llava")
    model, anatomy = example.model, anatomy_of(example.model)
    inputs = anatomy.with_positions(example.inputs("left_padded"))
    last = torch.full((4, 1), inputs["input_ids"].shape[1] - 1)
    with torch.no_grad():
        resumed = pause(model, inputs, 0)[0].run(POLICY).logits(last)[:, 0]
        with la.attach(model, POLICY):
            live = model(**inputs).logits[:, -1]
    torch.testing.assert_close(resumed, live, **TOLERANCE)
    other = tiny_once(min(WINDOWS))
    paused = pause(other.model, anatomy_of(other.model).with_positions(other.inputs("left_padded")), 0)[0]
    with pytest.raises(UnsupportedModel, match="sliding-window"):
        paused.run(POLICY)


def test_positions_that_do_not_count_one_by_one_are_refused():
    example = tiny("llava")
    inputs = example.inputs("single")
    inputs["position_ids"] = 2 * torch.arange(inputs["input_ids"].shape[1])[None]
    with la.attach(example.model, POLICY), pytest.raises(UnsupportedModel, match="one by one"):
        example.model(**inputs)


def test_inside_the_decoder_nothing_is_renumbered():
    class Careless(Policy):
        name = "careless"

        def layers(self, num_layers, first_prunable):
            return (2,)

        def renumbers(self):
            return True

        def decide(self, view):
            return Decision.drop_visual(view, view.has_visual_tokens)

    example = tiny_once("llava")
    inputs = example.inputs("left_padded")
    with pytest.raises(SettingsError, match="cannot be numbered anew"):
        la.attach(example.model, la.DivPrune(0.4, layer=2, positions="renumber"))
    with torch.no_grad(), la.attach(example.model, Careless()):
        found = example.model(**inputs).logits
    with torch.no_grad(), la.attach(example.model, la.ExitAt(2)):
        assert torch.equal(found, example.model(**inputs).logits)
