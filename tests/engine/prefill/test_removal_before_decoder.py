"""Removal before the decoder equals the decoder called by hand with the shorter prompt, at the same positions."""

import pytest
import torch
from shared_tiny import RECIPES, tiny
from test_common import CASES  # the policies' table

import lookaway as la
from lookaway.anatomy.find import anatomy_of
from lookaway.anatomy.tiny import IMAGE
from lookaway.core.decision import Decision, Policy
from lookaway.core.errors import AttachError, InvalidDecision, UnsupportedModel

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
PLACES = {"aya_vision", "paligemma2"}
"""Decoders that make their sliding windows themselves: of places in the shorter prompt, where lookaway keeps to places
in the whole one. Masking at full length judges them (test_equalities.py)."""


def called_with(model, inputs):
    """What the unattached model calls its decoder with."""
    seen = []
    decoder = anatomy_of(model).language_model
    hook = decoder.register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs), with_kwargs=True)
    with torch.no_grad():
        model(**inputs, use_cache=False)
    hook.remove()
    return seen[0]


def one_row(mask, rows, row, columns):
    return mask.expand(rows, -1, -1, -1)[row : row + 1, :, columns][..., columns]


def shorter(kwargs, row, columns):
    """The decoder's arguments for one row, on some of its columns, at the positions that they had."""
    embeds = kwargs["inputs_embeds"]
    positions = kwargs.get("position_ids")
    if positions is None:
        positions = torch.arange(embeds.shape[1])[None]
    positions = positions.expand(*positions.shape[:-2], len(embeds), -1)[..., row : row + 1, columns]
    cut = {"inputs_embeds": embeds[row : row + 1, columns], "position_ids": positions, "use_cache": True}
    mask = kwargs.get("attention_mask")
    if isinstance(mask, dict):
        cut["attention_mask"] = {
            name: None if part is None else one_row(part, len(embeds), row, columns) for name, part in mask.items()
        }
    elif mask is not None and mask.dim() == 4:
        cut["attention_mask"] = one_row(mask, len(embeds), row, columns)
    if kwargs.get("deepstack_visual_embeds") is not None:
        visual = kwargs["visual_pos_masks"]
        number = (visual.flatten().cumsum(0) - 1).view(visual.shape)[row, columns]
        is_visual = visual[row, columns]
        cut["visual_pos_masks"] = is_visual[None]
        cut["deepstack_visual_embeds"] = [part[number[is_visual]] for part in kwargs["deepstack_visual_embeds"]]
    if "routing" in kwargs:  # LaVIN
        cut["routing"] = kwargs["routing"][[row]]
    return cut


@pytest.mark.parametrize("family", [name for name in RECIPES if name not in PLACES])
def test_is_the_shorter_prompt_built_by_hand(family):
    example = tiny(family)
    model, anatomy, inputs = example.model, anatomy_of(example.model), example.inputs("left_padded")
    kwargs = called_with(model, inputs)
    with torch.no_grad(), la.attach(model, la.CDPruner(0.4)) as run:
        found = model(**inputs, use_cache=True)
    index, valid = run.kept_columns()
    counts = [int(n) for n in valid.sum(1)]
    assert counts < inputs["attention_mask"].sum(1).tolist()
    for row in range(4):
        cut = shorter(kwargs, row, index[row, valid[row]])
        with torch.no_grad():
            out = anatomy.language_model(**cut)
            logits = anatomy.head(out.last_hidden_state)
        cap = anatomy.softcap
        logits = logits if cap is None else torch.tanh(logits / cap) * cap
        torch.testing.assert_close(found.logits[row, valid[row]], logits[0] * scale(model), **TOLERANCE)
        stored = zip(found.past_key_values.layers, out.past_key_values.layers, run.trace.cache_slots, strict=True)
        for ours, theirs, slots in stored:
            assert ours.keys.shape[2] == slots or ours.is_sliding
            assert theirs.keys.shape[2] == counts[row] or theirs.is_sliding


def scale(model):
    return getattr(model.config.get_text_config(), "logit_scale", 1)


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl", "qwen3_vl", "internvl"])
def test_decoding_goes_on_behind_the_shorter_prompt_at_the_original_positions(family):
    """One row: the next token by hand, with the cache of the prompt by hand."""
    example = tiny(family)
    model, anatomy, inputs = example.model, anatomy_of(example.model), example.inputs("single")
    kwargs = called_with(model, inputs)
    word = torch.tensor([[17]])
    with torch.no_grad(), la.attach(model, la.DivPrune(0.3)) as run:
        first = model(**inputs, use_cache=True)
        second = model(input_ids=word, past_key_values=first.past_key_values)
    index, _ = run.kept_columns()
    cut = shorter(kwargs, 0, index[0])
    with torch.no_grad():
        out = anatomy.language_model(**cut)
        after = cut["position_ids"].amax() + 1  # behind the prompt's last position
        embeds = anatomy.language_model.get_input_embeddings()(word)
        more = anatomy.language_model(
            inputs_embeds=embeds, past_key_values=out.past_key_values,
            position_ids=torch.full_like(cut["position_ids"][..., :1], int(after)),
        )  # fmt: skip
        logits = anatomy.head(more.last_hidden_state)
    torch.testing.assert_close(second.logits, logits, **TOLERANCE)
    assert second.past_key_values.layers[0].keys.shape[2] == index.shape[1] + 1
    assert second.past_key_values.get_seq_length() == inputs["input_ids"].shape[1] + 1  # what transformers counts by


WAYS = {
    "sampling": {"do_sample": True, "temperature": 0.9, "top_k": 20},
    "several samples of a row": {"do_sample": True, "num_return_sequences": 2},
    "penalties": {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    "beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["visionzip", "before-then-gates", "downsample"])
def test_ways_to_generate(way, name):
    model, inputs = tiny("llava").model, tiny("llava").inputs("left_padded")
    found = []
    for how in (la.attach, la.reference):
        torch.manual_seed(7)
        with how(model, CASES[name].make(4)):
            found.append(model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, **WAYS[way]))
    assert torch.equal(*found)


def test_proposed_tokens_are_taken_back_out_of_the_cache():
    model, inputs = tiny("llava").model, tiny("llava").inputs()
    words = inputs["input_ids"][:, -6:]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], words, words], 1)  # something to look up
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    options = {"do_sample": False, "max_new_tokens": 7, "min_new_tokens": 7, "suppress_tokens": [IMAGE]}
    with la.attach(model, la.UniformKeep(0.4, layer=0)):
        plain = model.generate(**inputs, **options)
        helped = model.generate(**inputs, **options, prompt_lookup_num_tokens=3)
    assert torch.equal(plain, helped)


def test_embeddings_instead_of_ids():
    example = tiny("llava")
    inputs = example.inputs("left_padded")
    embeds = example.model.get_input_embeddings()(inputs["input_ids"])
    others = {name: value for name, value in inputs.items() if name != "input_ids"}
    with torch.no_grad(), la.attach(example.model, la.VisionZip(0.4)):
        by_ids = example.model(**inputs).logits
        by_embeds = example.model(**others, inputs_embeds=embeds).logits
    assert torch.equal(by_ids, by_embeds)


def test_hidden_states_are_whole_batches_also_where_rows_run_in_groups():
    example = tiny("llava")
    with torch.no_grad(), la.attach(example.model, la.UniformKeep(0.4, layer=0)) as run:
        out = example.model(**example.inputs("left_padded"), output_hidden_states=True)
    slots = run.trace.cache_slots[0]
    assert [tuple(states.shape) for states in out.hidden_states] == [(4, slots, 32)] * 5


def test_the_loss_is_that_of_the_kept_columns_and_reaches_the_weights():
    example = tiny("llava")
    inputs = example.inputs("left_padded")
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, -100)
    losses = []
    for how in (la.attach, la.reference):
        with how(example.model, la.VisionZip(0.4)):
            losses.append(example.model(**inputs, labels=labels).loss)
    torch.testing.assert_close(*losses)
    losses[0].backward()
    projector = next(example.model.model.multi_modal_projector.parameters())
    assert projector.grad is not None
    assert projector.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["visionzip", "uniform-keep-before"])
def test_gradient_checkpointing_runs_the_same_layers_again(name):
    gradients = []
    for checkpointing in (False, True):
        example = tiny("llava")
        inputs = example.inputs("left_padded")
        if checkpointing:
            example.model.train()
            example.model.gradient_checkpointing_enable()
        with la.attach(example.model, CASES[name].make(4)):
            example.model(**inputs, use_cache=False).logits.square().mean().backward()
        gradients.append(example.model.lm_head.weight.grad)
    torch.testing.assert_close(*gradients)


def test_the_trace_says_what_never_entered():
    example = tiny("llava")
    inputs = example.inputs("left_padded")
    with torch.no_grad(), la.attach(example.model, la.chain(la.UniformKeep(0.25, layer=0), la.ExitAt(2))) as run:
        out = example.model(**inputs, use_cache=True)
    trace = run.trace
    assert trace.initial_visual_tokens == [16, 16, 0, 32]
    assert trace.visual_tokens == [[4, 4, 0, 8]] * 2 + [[0] * 4] * 2
    assert trace.exit_layers == [2, 2, None, 2]
    assert trace.prompt_tokens == inputs["attention_mask"].sum(1).tolist()
    cost = trace.cost()
    assert cost.full_visual_tokens == 16
    layers = out.past_key_values.layers
    assert cost.kv_bytes == sum(part.nbytes for layer in layers for part in (layer.keys, layer.values))
    assert cost.full_kv_bytes == 4 * inputs["input_ids"].numel() * 2 * 16 * 4  # layers x slots x (keys, values) x 2 x 8
    assert sum(trace.row_cost(row).flops for row in range(4)) == cost.flops
    assert sum(trace.row_cost(row).full_flops for row in range(4)) == cost.full_flops


def test_all_may_leave_before_the_decoder():
    """That is the text alone, at the positions that it has behind an image."""

    class Blind(Policy):
        def layers(self, num_layers, first_prunable):
            return (0,)

        def decide(self, view):
            return Decision.drop_visual(view, view.has_visual_tokens)

    example = tiny("llava")
    with torch.no_grad(), la.attach(example.model, Blind()) as run:
        example.model(**example.inputs("left_padded"))
    assert run.trace.exit_layers == [0, 0, None, 0]
    assert not run.trace.nothing_to_drop


def test_layers_behind_the_first_are_still_refused_where_features_are_added_between():
    with pytest.raises(la.LookawayError, match=r"before layer 1 .*before the decoder \(layer 0\) and from layer 3"):
        la.UniformKeep(0.5, layer=1).layers(4, 3)
    assert la.UniformKeep(0.5, layer=0).layers(4, 3) == (0,)

    class Late(Policy):
        def layers(self, num_layers, first_prunable):
            return (num_layers,)

        def decide(self, view):
            return Decision()

    with pytest.raises(AttachError, match=r"allows 0 \(before the decoder\) and 1 to 3"):
        la.attach(tiny("qwen3_vl").model, Late())


@pytest.mark.parametrize("family", ["pixtral", "llava_next", "qwen2_5_vl", "internvl", "gemma3"])
def test_a_tower_whose_attention_is_not_known_is_refused_when_attached(family):
    with pytest.raises(UnsupportedModel, match=r"vision tower's own attention.*la\.CDPruner"):
        la.attach(tiny(family).model, la.VisionZip(0.5))


def test_attention_of_another_number_of_tokens_is_refused():
    example = tiny("llava")
    inputs = example.inputs()
    embeds = example.model.get_input_embeddings()(inputs["input_ids"])
    with la.attach(example.model, la.VisionZip(0.5)), pytest.raises(UnsupportedModel, match="made 0 tokens where"):
        example.model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"])


@pytest.mark.parametrize("values", [torch.zeros(1, 3, 32), "none", torch.zeros(1, 28)])
def test_values_of_another_shape_are_refused(values):
    class Wrong(Policy):
        def layers(self, num_layers, first_prunable):
            return (0,)

        def decide(self, view):
            keep = view.layout.text.clone()
            return Decision(keep=keep, values=values)

    example = tiny("llava")
    with torch.no_grad(), la.attach(example.model, Wrong()), pytest.raises(InvalidDecision, match="must answer values"):
        example.model(**example.inputs())


def test_values_without_what_stays_are_refused():
    class Wrong(Policy):
        def layers(self, num_layers, first_prunable):
            return (0,)

        def decide(self, view):
            return Decision(values=view.hidden)

    example = tiny("llava")
    with torch.no_grad(), la.attach(example.model, Wrong()), pytest.raises(InvalidDecision, match="which tokens stay"):
        example.model(**example.inputs())


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
@pytest.mark.parametrize("skipped", [(0,), (0, 1)])
def test_with_skipped_attention_behind_it(family, skipped):
    """Also where the skipped layer is one behind which the decoder adds features."""
    example = tiny(family)
    policy, logits = la.chain(la.DivPrune(4), la.AttentionSkip(skipped)), []
    for attach in (la.attach, la.reference):
        with torch.no_grad(), attach(example.model, policy):
            out = example.model.generate(
                **example.inputs("left_padded"), max_new_tokens=3, do_sample=False, eos_token_id=None,
                output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
            logits.append(torch.stack(out.logits))
    torch.testing.assert_close(*logits, **TOLERANCE)
