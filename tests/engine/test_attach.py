"""What is attached comes off without a trace, trains, survives copies, and refuses what it cannot do right."""

import copy
import gc
import warnings
import weakref

import pytest
import torch
from local_policies import Exit, Keep, KeepButAsk, Thin
from shared_tiny import RECIPES, THOROUGH, families, thorough_families, tiny, tiny_once
from transformers import AttentionInterface, AttentionMaskInterface, StaticCache
from transformers.masking_utils import flash_attention_mask

import lookaway as la
from lookaway.core.base_model import BaseModel
from lookaway.core.decision import Decision, Policy
from lookaway.core.errors import AttachError, InvalidDecision, ModelMismatch, UnsupportedModel
from lookaway.engine.api import attach, reference
from lookaway.engine.cache.pruned_cache import read_cache_info

GREEDY = {"do_sample": False, "max_new_tokens": 4, "min_new_tokens": 4}


def hooks(model):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def attributes(model):
    return {name: sorted(vars(module)) for name, module in model.named_modules()}


# taking off ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "how", "ending"),
    [(f, how, end) for f in THOROUGH for how in (attach, reference) for end in ("quietly", "detach", "without a run")]
    + [(family, attach, "raising") for family in RECIPES],
)
def test_nothing_stays_behind(family, how, ending):
    example = tiny_once(family)
    model, inputs = example.model, example.inputs("left_padded")
    with torch.no_grad():
        before = model(**inputs).logits
    state = {name: value.clone() for name, value in model.state_dict().items()}
    count, names, config = hooks(model), attributes(model), copy.deepcopy(model.config.to_dict())

    attached = how(model, Exit(1))
    assert hooks(model) > count
    if ending != "without a run":
        with torch.no_grad():
            model(**inputs)
    if ending == "raising":
        with pytest.raises(KeyError), attached:
            raise KeyError("the body's own")
    elif ending == "detach":
        attached.detach()
        attached.detach()
    else:
        with attached:
            pass

    assert hooks(model) == count
    assert attributes(model) == names
    assert model.config.to_dict() == config
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, before)
    with how(model, Exit(1)):  # may be attached again
        pass


def test_an_error_inside_the_forward_leaves_a_clean_attachment():
    model, inputs = tiny("llava").model, tiny("llava").inputs()

    class Once(Exit):
        broken = True

        def decide(self, view):
            if self.broken:
                raise RuntimeError("policy broke")
            return super().decide(view)

    policy = Once(2)
    with torch.no_grad(), attach(model, policy) as run:
        with pytest.raises(RuntimeError, match="policy broke"):
            model(**inputs)
        with pytest.raises(AttachError, match="No prompt ran"):
            _ = run.trace
        policy.broken = False
        model(**inputs)
        assert run.trace.exit_layers == [2]


def test_a_model_that_is_thrown_away_is_freed_while_attached():
    model = tiny("llava").model
    attach(model, Exit(1))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


# what it says --------------------------------------------------------------------------------------------------------


@families
def test_the_trace_of_rows_that_exit_at_different_layers(family):
    model = tiny_once(family)
    inputs = model.inputs("left_padded")
    visual = (inputs["input_ids"] == 5).sum(1).tolist()
    text = ((inputs["input_ids"] != 5) & (inputs["attention_mask"] == 1)).sum(1).tolist()
    with torch.no_grad(), attach(model.model, Exit([2, None, 1, 3])) as run:
        model.model(**inputs)
    trace = run.trace
    assert trace.exit_layers == [2, None, None, 3]  # the third row has no image
    assert trace.visual_tokens[0] == trace.visual_tokens[1] == visual
    assert trace.visual_tokens[2] == [0, visual[1], 0, visual[3]]
    assert trace.visual_tokens[3] == [0, visual[1], 0, 0]
    assert trace.tokens[3] == [text[0], visual[1] + text[1], text[2], text[3]]
    assert trace.cache_slots[3] == max(trace.tokens[3])
    assert trace.notes[2]["chosen"] == [1.0, 0.0, 0.0, 0.0]
    assert not trace.nothing_to_drop
    assert 0.3 < trace.cost().flops_share < 1


def test_positions_stay_the_original_ones():
    """Rotary positions of the kept rows and of decoded tokens are those of the full prompt."""
    model = tiny("llava")
    inputs = model.inputs()
    seen = []
    layer = model.model.model.language_model.layers[2]
    with attach(model.model, Exit(2)):
        watch = layer.self_attn.register_forward_pre_hook(
            lambda m, args, kwargs: seen.append((kwargs["position_ids"], kwargs["position_embeddings"])),
            with_kwargs=True,
        )
        model.model.generate(**inputs, **GREEDY)
        watch.remove()
    text = (inputs["input_ids"][0] != 5).nonzero().flatten()
    assert torch.equal(seen[0][0][0], text)
    length = inputs["input_ids"].shape[1]
    assert [int(positions) for positions, _ in seen[1:]] == [length, length + 1, length + 2]
    rotary = model.model.model.language_model.rotary_emb
    expected = rotary(torch.zeros(1), text[None])
    assert torch.equal(seen[0][1][0], expected[0])


def test_without_images_it_says_so():
    model = tiny("llava")
    inputs = {name: value[2:3] for name, value in model.inputs("right_padded").items() if name != "pixel_values"}
    with torch.no_grad():
        plain = model.model(**inputs).logits
        with attach(model.model, Exit(1)) as run, pytest.warns(UserWarning, match="no row of this batch has a visual"):
            out = model.model(**inputs).logits
    assert run.trace.nothing_to_drop
    assert torch.equal(out, plain)
    with torch.no_grad(), attach(model.model, Keep()), warnings.catch_warnings():
        warnings.simplefilter("error")
        model.model(**inputs)


def test_policies_are_asked_only_in_prefill_only_at_their_layers_and_only_while_rows_wait():
    model = tiny("llava", num_layers=6)
    policy = KeepButAsk()
    with attach(model.model, policy):
        model.model.generate(**model.inputs(), **GREEDY)
    assert policy.asked == [1, 2, 3, 4, 5]

    class Early(KeepButAsk):
        def decide(self, view):
            super().decide(view)
            return Decision.drop_visual(view, view.has_visual_tokens if view.layer == 2 else ~view.has_visual_tokens)

    policy = Early()
    with attach(model.model, policy):
        model.model.generate(**model.inputs("left_padded"), **GREEDY)
    assert policy.asked == [1, 2]


# where it works ------------------------------------------------------------------------------------------------------


@thorough_families
def test_gradients_flow_through_removal_and_checkpointing_asks_once(family):
    grads, asked = [], []

    class Counting(Exit):
        def decide(self, view):
            asked.append(view.layer)
            return super().decide(view)

    for how, checkpointing in ((attach, False), (attach, True), (reference, False)):
        model = tiny(family)
        inputs = model.inputs("left_padded")
        model.model.train()
        if checkpointing:
            model.model.gradient_checkpointing_enable()
        asked.clear()
        with how(model.model, Counting([2, 1, None, 3])) as run:
            logits = model.model(**inputs, use_cache=False).logits
            index, valid = run.kept_columns()
            wanted = torch.where(inputs["input_ids"] == 5, -1, inputs["input_ids"]).gather(1, index)
            chosen = (wanted[:, 1:] > 0) & valid[:, 1:]
            at = logits if how is attach else logits.gather(1, index[..., None].expand(-1, -1, logits.shape[-1]))
            torch.nn.functional.cross_entropy(at[:, :-1][chosen], wanted[:, 1:][chosen]).backward()
        assert asked == [1, 2, 3]
        grads.append({name: p.grad for name, p in model.model.named_parameters() if p.grad is not None})
    assert any("vision_tower" in name or "visual" in name for name in grads[0])
    for other in grads[1:]:
        assert other.keys() == grads[0].keys()
        for name, value in grads[0].items():
            torch.testing.assert_close(value, other[name], atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_two_forwards_before_their_backwards_under_checkpointing():
    """Each prompt lost its own tokens; layers that run again must do as in the forward that they belong to."""
    example, gradients = tiny("llava"), []
    model = example.model.train()
    prompts = [example.inputs("left_padded"), example.inputs("single")]

    class AskedEarly(Exit):
        def layers(self, num_layers, first):
            return range(first, num_layers)  # asked before the layers where nothing leaves yet, too

    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        with attach(model, AskedEarly(2)):
            losses = [model(**inputs, use_cache=False).logits[:, -1].square().mean() for inputs in prompts]
            for loss in losses if checkpointing else losses[::-1]:
                loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        model.zero_grad()
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", [family for family in THOROUGH if family != "gemma3"])
def test_masks_of_two_dimensions(family):
    """Flash attention gets a mask [B, S]; a stand-in that reads such masks judges them on a CPU."""
    AttentionInterface.register("flash_stand_in", _flash_stand_in)
    AttentionMaskInterface.register("flash_stand_in", flash_attention_mask)
    plain, flash = tiny(family), tiny(family)
    flash.model.model.language_model.config._attn_implementation = "flash_stand_in"
    inputs = plain.inputs("left_padded")
    options = {**GREEDY, "return_dict_in_generate": True, "output_logits": True}
    for policy in (Exit([2, None, 1, 3]), Thin(), Exit(1)):
        with attach(plain.model, policy):
            expected = plain.model.generate(**inputs, **options)
        with attach(flash.model, policy):
            found = flash.model.generate(**inputs, **options)
        torch.testing.assert_close(torch.stack(found.logits), torch.stack(expected.logits), atol=1e-5, rtol=1e-5)


def _flash_stand_in(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Causal attention aligned at the end, with a mask [B, keys] or none, as flash attention reads them."""
    assert kwargs.get("position_ids") is None or attention_mask is None or attention_mask.dim() == 2
    queries, keys = query.shape[2], key.shape[2]
    allowed = torch.arange(keys) <= torch.arange(keys - queries, keys)[:, None]
    if attention_mask is not None:
        assert attention_mask.shape == (len(query), keys)
        allowed = allowed & attention_mask.bool()[:, None, None, :]
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query @ key.transpose(2, 3) * scaling).masked_fill(~allowed, torch.finfo(query.dtype).min)
    return (scores.softmax(-1) @ value).transpose(1, 2), None


def test_the_memory_goes_with_a_copied_and_reordered_cache():
    model = tiny("llava").model
    inputs = tiny("llava").inputs("left_padded")
    new = torch.tensor([[20], [21], [22], [23]])
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
    positions = mask.sum(1, keepdim=True) - 1
    order = torch.tensor([3, 1, 0, 0])
    results = []
    for how in (attach, reference):
        with torch.no_grad(), how(model, Exit([2, None, 1, 3])):
            cache = model(**inputs, use_cache=True).past_key_values
            copied = copy.deepcopy(cache)
            copied.reorder_cache(order)
            moved = {"attention_mask": mask[order], "position_ids": positions[order]}
            results.append(model(input_ids=new[order], past_key_values=copied, **moved).logits)
            straight = model(input_ids=new, past_key_values=cache, attention_mask=mask, position_ids=positions).logits[
                order
            ]
            torch.testing.assert_close(results[-1], straight, atol=1e-5, rtol=1e-5)
            copied.reset()
            assert read_cache_info(copied) is None
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


def test_embeddings_with_unmerged_images_do_as_well():
    model = tiny("llava").model
    inputs = tiny("llava").inputs()
    embeds = {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"]), **inputs}
    del embeds["input_ids"]
    with torch.no_grad(), attach(model, Exit(1)) as run:
        by_ids = model(**inputs).logits
        assert torch.equal(model(**embeds).logits, by_ids)
        assert run.trace.exit_layers == [1]


def test_a_peft_model():
    peft = pytest.importorskip("peft")
    plain = tiny("llava")
    with torch.no_grad(), attach(plain.model, Exit(2)):
        expected = plain.model(**plain.inputs()).logits
    wrapped = peft.get_peft_model(tiny("llava").model, peft.LoraConfig(target_modules=["q_proj"]))
    with torch.no_grad(), attach(wrapped, Exit(2)) as run:
        torch.testing.assert_close(wrapped(**plain.inputs()).logits, expected)
        assert run.trace.exit_layers == [2]


@thorough_families
def test_the_models_own_loss_is_taken_on_the_kept_columns(family):
    model, inputs = tiny(family).model, tiny(family).inputs("left_padded")
    labels = torch.where(inputs["attention_mask"].bool() & (inputs["input_ids"] != 5), inputs["input_ids"], -100)
    found = []
    for how in (attach, reference):
        with torch.no_grad(), how(model, Exit([2, None, 1, 3])) as run:
            out = model(**inputs, labels=labels)
            index, valid = run.kept_columns()
        found.append(out.loss)
    logits = out.logits.gather(1, index[..., None].expand(-1, -1, out.logits.shape[-1]))  # of the reference
    losses = []
    for row in range(4):
        columns = valid[row].nonzero().flatten()
        wanted = labels[row, index[row, columns]]
        each = torch.nn.functional.cross_entropy(logits[row, columns[:-1]], wanted[1:], reduction="none")
        losses += each[wanted[1:] != -100].tolist()
    by_hand = torch.tensor(losses).mean()
    torch.testing.assert_close(found[0], by_hand)
    torch.testing.assert_close(found[1], by_hand)
    with torch.no_grad():
        plain = model(**inputs, labels=labels).loss
        with attach(model, Keep()):
            assert torch.equal(model(**inputs, labels=labels).loss, plain)


# what it refuses -----------------------------------------------------------------------------------------------------


def test_a_second_policy_is_refused():
    model = tiny("llava").model
    with attach(model, Exit(1)):
        for how in (attach, reference):
            with pytest.raises(AttachError, match=r"attached to this model already.*chain"):
                how(model, Exit(2))
    with attach(model, Exit(2)):
        pass


def test_layers_that_cannot_be_pruned_and_things_that_are_no_policy():
    model = tiny("llava").model
    with pytest.raises(
        AttachError, match=r"before layers \[4\]; this model allows 0 \(before the decoder\) and 1 to 3"
    ):
        attach(model, Exit(4))
    with pytest.raises(AttachError, match="is no policy"):
        attach(model, "exit")
    assert hooks(model) == hooks(tiny("llava").model)


def test_a_policy_for_another_model():
    model = tiny("llava").model
    policy = Exit(1)
    policy.base = BaseModel("LlavaForConditionalGeneration", 32, 32, 97)
    with pytest.raises(ModelMismatch, match=r"num_layers = 32.*num_layers = 4"):
        attach(model, policy)
    policy.base = la.anatomy(model).base
    attach(model, policy).detach()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda view: Decision(keep=torch.zeros_like(view.layout.visual)), r"dropped 11 text tokens before layer 1"),
        (lambda view: Decision(keep=torch.ones(1, 3, dtype=torch.bool)), r"must answer bool \(1, 27\).*bool \(1, 3\)"),
        (lambda view: Decision(keep=torch.ones(1, 27)), "float32"),
        (lambda view: torch.ones(1, 27), "not a Decision"),
    ],
)
def test_decisions_that_must_not_be_carried_out(answer, message):
    class Bad(Policy):
        name = "bad"

        def layers(self, num_layers, first_prunable):
            return (1,)

        def decide(self, view):
            return answer(view)

    model = tiny("llava")
    with torch.no_grad(), attach(model.model, Bad()), pytest.raises(InvalidDecision, match=message):
        model.model(**model.inputs())


def test_masks_of_other_forms_and_a_static_cache_without_removal():
    model, inputs = tiny("llava").model, tiny("llava").inputs()
    refused = pytest.raises(UnsupportedModel, match=r"attention_mask must be \[B, S\]")
    with torch.no_grad(), attach(model, Exit(1)), refused:
        model(**{**inputs, "attention_mask": torch.ones(1, 1, 27, 27)})
    with attach(model, Keep()), torch.no_grad():
        model(**inputs, past_key_values=StaticCache(model.config.text_config, max_cache_len=64))


def test_sliding_windows_count_places_in_the_whole_prompt():
    """As the reference does, whose windows transformers counts; the windows are shorter than what left."""
    model = tiny("llava_next")
    text = model.model.config.text_config
    text.sliding_window = 6
    text.layer_types = ["sliding_attention"] * 4
    more = torch.randint(10, 90, (4, 3), generator=torch.Generator().manual_seed(3))
    inputs = model.inputs("left_padded")
    for attention in ("sdpa", "eager"):
        model.model.set_attn_implementation(attention)
        turns, held = [], []
        for how in (attach, reference):
            with torch.no_grad(), how(model.model, Exit([2, None, 1, 3])):
                out = model.model(**inputs, use_cache=True)
                mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 3), value=1)
                turns.append(
                    model.model(input_ids=more, attention_mask=mask, past_key_values=out.past_key_values).logits
                )
                held.append([layer.keys.shape[2] for layer in out.past_key_values.layers])
        torch.testing.assert_close(*turns, atol=1e-5, rtol=1e-5)
        assert held == [[5] * 4] * 2


def test_what_sliding_windows_cannot_do_is_refused():
    model = tiny("gemma3")
    inputs = model.inputs("right_padded")
    with torch.no_grad(), attach(model.model, Exit(1)):
        cache = model.model(**inputs, use_cache=True).past_key_values
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
        with pytest.raises(UnsupportedModel, match="padding_side = 'left'"):
            model.model(input_ids=torch.full((4, 1), 20), attention_mask=mask, past_key_values=cache)
    AttentionInterface.register("flash_stand_in", _flash_stand_in)
    AttentionMaskInterface.register("flash_stand_in", flash_attention_mask)
    model.model.model.language_model.config._attn_implementation = "flash_stand_in"
    with torch.no_grad(), attach(model.model, Exit(1)), pytest.raises(UnsupportedModel, match="counts the tokens"):
        model.model(**model.inputs())


def test_deepstack_features_are_added_before_anything_may_leave():
    from transformers import Qwen3VLForConditionalGeneration

    example = tiny("qwen3_vl")
    config = copy.deepcopy(example.model.config)
    config.vision_config.deepstack_visual_indexes = [0, 1]
    model = Qwen3VLForConditionalGeneration._from_config(config).eval()
    assert la.anatomy(model).first_prunable_layer == 2
    with pytest.raises(AttachError, match=r"allows 0 \(before the decoder\) and 2 to 3"):
        attach(model, Exit(1))
    inputs = example.inputs("left_padded")
    logits = []
    for how in (attach, reference):
        with torch.no_grad(), how(model, Exit([2, None, None, 0])) as run:
            out = model(**inputs).logits
            index, valid = run.kept_columns()
            logits.append(out if how is attach else out.gather(1, index[..., None].expand(-1, -1, out.shape[-1])))
    torch.testing.assert_close(logits[0][valid], logits[1][valid], atol=1e-5, rtol=1e-5)


def test_compiled_models():
    wrapped = torch.compile(tiny("llava").model)
    in_place, one_layer = tiny("llava").model, tiny("llava").model
    in_place.compile()
    one_layer.model.language_model.layers[1].compile()
    for model in (wrapped, in_place, one_layer):
        with pytest.raises(UnsupportedModel, match=r"compiled \(torch.compile\)"):
            attach(model, Exit(1))


def test_continuous_batching():
    model = tiny("llava").model
    model.model.language_model.config._attn_implementation = "paged|sdpa"
    with torch.no_grad(), attach(model, Exit(1)), pytest.raises(UnsupportedModel, match="Continuous batching"):
        model(**tiny("llava").inputs())


def test_layers_that_accelerate_has_wrapped():
    """As with device_map: each layer moves what it is given, in a forward of its own."""
    hooks_of = pytest.importorskip("accelerate.hooks")
    plain, wrapped = tiny("llava"), tiny("llava")
    for layer in wrapped.model.model.language_model.layers:
        hooks_of.add_hook_to_module(layer, hooks_of.AlignDevicesHook(execution_device="cpu", io_same_device=True))
    inputs, found = plain.inputs("left_padded"), []
    for model in (plain.model, wrapped.model):
        with attach(model, Exit([2, None, 1, 3])):
            found.append(model.generate(**inputs, **GREEDY))
    assert torch.equal(*found)


def test_a_shortened_cache_under_another_policy():
    model, inputs = tiny("llava").model, tiny("llava").inputs()
    more = {"input_ids": torch.tensor([[20]]), "attention_mask": torch.ones(1, 28, dtype=torch.int64)}
    with torch.no_grad():
        with attach(model, Exit(1)):
            cache = model(**inputs, use_cache=True).past_key_values
        for policy in (Exit(2), Keep()):
            with attach(model, policy), pytest.raises(AttachError, match="shortened from layer 1 on"):
                model(**more, past_key_values=cache)


def test_a_cache_that_was_cropped_into_the_prompt():
    model, inputs = tiny("llava").model, tiny("llava").inputs()
    with torch.no_grad(), attach(model, Exit(1)):
        cache = model(**inputs, use_cache=True).past_key_values
        cache.crop(-9)
        with pytest.raises(UnsupportedModel, match="cropped into the prompt: from 27 columns to 18"):
            model(input_ids=torch.tensor([[20]]), attention_mask=torch.ones(1, 19).long(), past_key_values=cache)


def test_the_decoder_called_directly():
    model = tiny("llava").model
    with torch.no_grad(), attach(model, Exit(1)), pytest.raises(AttachError, match="outside of the model's forward"):
        model.model.language_model(torch.tensor([[20, 21]]))


def test_a_trace_before_any_run():
    with attach(tiny("llava").model, Exit(1)) as run, pytest.raises(AttachError, match="No prompt ran"):
        _ = run.trace
