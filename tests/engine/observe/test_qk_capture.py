"""What a policy is shown of the layer before is what that layer's attention was, and all of it comes off again."""

import pytest
import torch
from local_policies import Attentive, Exit
from shared_tiny import OLD, RECIPES, THOROUGH, tiny
from transformers import AttentionInterface

import lookaway as la
from lookaway.anatomy.tiny import BATCH_KINDS
from lookaway.core.errors import UnsupportedModel
from lookaway.engine.api import attach, reference
from lookaway.engine.observe.probing import observe


class Silent(Attentive):
    """Sees and keeps everything."""

    def decide(self, view):
        self.seen[view.layer] = view
        return la.Decision()


def all_rows(view):
    slots = torch.arange(view.hidden.shape[1])
    return slots.expand(len(view.hidden), -1)


def attention_modules(model):
    return [layer.self_attn for layer in la.anatomy(model.model).layers]


@pytest.mark.parametrize(
    ("family", "batch", "cache"),
    [(family, kind, cache) for family in THOROUGH for kind in BATCH_KINDS for cache in (True, False)]
    + [(family, "left_padded", True) for family in RECIPES if family not in THOROUGH],
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_weights_are_the_full_maps_of_the_layer_before(family, attention, batch, cache):
    model, eager = tiny(family, attn_implementation=attention), tiny(family, attn_implementation="eager")
    inputs, policy = model.inputs(batch), Silent((1, 3))
    with torch.no_grad():
        maps = eager.model(**inputs, output_attentions=True).attentions
        plain = model.model(**inputs, use_cache=cache).logits
        with attach(model.model, policy):
            assert torch.equal(model.model(**inputs, use_cache=cache).logits, plain)
    assert sorted(policy.seen) == [1, 3]
    for layer, view in policy.seen.items():
        weights = view.attention_inputs.weights(all_rows(view))
        for row in range(len(plain)):
            real = ~view.layout.padding[row]
            torch.testing.assert_close(
                weights[row][:, real][..., real], maps[layer - 1][row][:, real][..., real], atol=1e-5, rtol=1e-4
            )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", RECIPES)
def test_after_removal_both_twins_show_the_slots_that_are_left(family, attention):
    if OLD and family.startswith("qwen2"):
        pytest.skip("its attention rotates in a way of its own in transformers 5.16: refused, with the reason")
    model = tiny(family, attn_implementation=attention)
    inputs, seen = model.inputs("left_padded"), []
    for how in (attach, reference):
        policy = Attentive((1, 3))
        with torch.no_grad(), how(model.model, policy):
            model.model(**inputs)
        seen.append(policy.seen[3])
    fast, slow = seen
    assert fast.hidden.shape[1] < inputs["input_ids"].shape[1]  # something had left before layer 1
    real = ~fast.layout.padding
    for a, b in zip((fast, slow), (slow, fast), strict=True):
        assert torch.equal(a.attention_inputs.real, real)
        for rotary in (True, False):
            ours, theirs = (v.attention_inputs.weights(all_rows(v), rotary) for v in (a, b))
            for row in range(len(ours)):
                mine = ours[row][:, real[row]][..., real[row]]
                torch.testing.assert_close(mine, theirs[row][:, real[row]][..., real[row]], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", RECIPES)
def test_without_phase_is_what_the_projections_gave(family):
    if OLD and family.startswith("qwen2"):
        pytest.skip("its attention rotates in a way of its own in transformers 5.16: refused, with the reason")
    model, policy, projected = tiny(family), Silent((2,)), {}
    module = attention_modules(model)[1]
    sources = {part: getattr(module, f"{part}_norm", getattr(module, f"{part}_proj")) for part in "qk"}
    hooks = [
        source.register_forward_hook(lambda m, i, out, part=part: projected.update({part: out}))
        for part, source in sources.items()
    ]
    with torch.no_grad(), attach(model.model, policy):
        model.model(**model.inputs("left_padded"))
    for hook in hooks:
        hook.remove()
    found = policy.seen[2].attention_inputs.plain()
    for values, part in zip(found, "qk", strict=True):
        expected = projected[part]
        if expected.dim() == 3:
            expected = expected.unflatten(2, (-1, values.shape[3]))
        if expected.shape[1] != values.shape[1]:
            expected = expected.transpose(1, 2)
        torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-4)
    moved = (policy.seen[2].attention_inputs.keys - found[1]).abs().max()
    assert moved == 0 if 1 in la.anatomy(model.model).unrotated else moved > 0.1


def test_only_the_modules_that_are_asked_for_are_touched_and_all_is_put_back():
    model = tiny("llava")
    modules = attention_modules(model)
    configs = [module.config for module in modules]
    usual = dict(AttentionInterface._global_mapping)
    run = attach(model.model, Attentive((2,)))
    assert [module.config is config for module, config in zip(modules, configs, strict=True)] == [
        True, False, True, True,
    ]  # fmt: skip
    assert modules[1].config.num_attention_heads == 4
    assert model.model.config.text_config._attn_implementation == "sdpa"
    model.model.generate(**model.inputs(), max_new_tokens=3, do_sample=False)
    with pytest.raises(KeyError), run:
        raise KeyError
    run.detach()
    assert all(module.config is config for module, config in zip(modules, configs, strict=True))
    assert not any(module._forward_pre_hooks for module in model.model.modules())
    assert all(AttentionInterface._global_mapping[name] is function for name, function in usual.items())


def test_a_forward_that_raises_leaves_nothing_behind():
    model = tiny("llava")
    inputs, policy = model.inputs(), Silent((3,))

    def fail(module, args):
        raise ZeroDivisionError

    with attach(model.model, policy) as run:
        hook = model.model.model.language_model.layers[3].mlp.register_forward_pre_hook(fail)
        with pytest.raises(ZeroDivisionError):
            model.model(**inputs)
        hook.remove()
        assert run._here.run is None  # queries and keys belong to the forward, and end with it
        model.model(**inputs)
        assert run._here.run is None


def test_nothing_is_kept_while_decoding():
    model, policy, calls = tiny("llava"), Silent((1,)), []
    with attach(model.model, policy) as run:
        store = run._capture._store
        run._capture._store = lambda: calls.append(store()) or calls[-1]
        model.model.generate(**model.inputs(), max_new_tokens=4, do_sample=False)
        assert run._here.run is None
    kept = [call is not None for call in calls]
    assert kept == [True, True]  # rotary embeddings, then queries and keys; in decoding nobody looks


def test_the_attention_may_be_changed_while_attached():
    model, policy = tiny("llava"), Attentive((1, 3))
    inputs = model.inputs("left_padded")
    with torch.no_grad(), attach(model.model, policy) as run:
        before = model.model(**inputs).logits
        model.model.set_attn_implementation("eager")
        after = model.model(**inputs).logits
    valid = run.kept_columns()[1]
    torch.testing.assert_close(before[valid], after[valid], atol=1e-5, rtol=1e-5)
    assert model.model.config.text_config._attn_implementation == "eager"


def test_probes_and_a_policy_share_a_module():
    model, policy = tiny("llava"), Attentive((1, 3))
    module = attention_modules(model)[0]
    config = module.config
    with torch.no_grad():
        seen = observe(model.model, [0])
        with attach(model.model, policy):
            model.model(**model.inputs())
            seen.stop()
            assert module.config is not config
        assert module.config is config
    view = policy.seen[1]
    last = torch.tensor([[view.hidden.shape[1] - 1]])
    expected = view.attention_inputs.weights(last)[:, :, 0] * view.layout.visual[:, None]
    torch.testing.assert_close(seen.looks[0].last, expected, atol=1e-6, rtol=1e-5)


def test_an_attention_that_did_not_run_is_an_error_and_not_a_silent_nothing():
    model, policy = tiny("llava"), Attentive((2,))
    layer = model.model.model.language_model.layers[1]

    class Skipped(torch.nn.Module):
        def forward(self, hidden_states, **kwargs):
            return torch.zeros_like(hidden_states), None

    with attach(model.model, policy):
        usual, layer.self_attn = layer.self_attn, Skipped()
        with pytest.raises(UnsupportedModel, match="attention of layer 1 did not run"):
            model.model(**model.inputs(), use_cache=False)
        layer.self_attn = usual
    layer.self_attn = Skipped()
    with pytest.raises(UnsupportedModel, match="cannot be read"):
        attach(model.model, policy)
    layer.self_attn = usual
    with attach(model.model, Exit(1)):  # nothing was left attached by the refusal
        model.model(**model.inputs())


def test_a_chain_passes_it_along():
    model, first, second = tiny("llava"), Attentive((1,)), Silent((2,))
    with torch.no_grad(), attach(model.model, la.chain(first, la.ExitAt(3), second)):
        model.model(**model.inputs())
    assert first.seen[1].attention_inputs is not None
    assert second.seen[2].attention_inputs.keys.shape[2] == second.seen[2].hidden.shape[1]
    assert la.chain(first, second).needs_attention(4) == {1, 2}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_gradient_checkpointing_runs_the_layers_again_without_asking_again():
    model, gradients = tiny("llava"), []
    inputs = model.inputs("left_padded")
    for checkpointing in (False, True):
        model.model.train()
        if checkpointing:
            model.model.gradient_checkpointing_enable()
        policy = Attentive((1, 3))
        with attach(model.model, policy) as run:
            out = model.model(**inputs, use_cache=False)
            asked = list(policy.seen)
            valid = run.kept_columns()[1]
            out.logits[valid].square().mean().backward()
            assert list(policy.seen) == asked == [1, 3]
            assert run._here.run is None
        gradients.append([p.grad.clone() for p in model.model.parameters() if p.grad is not None])
        model.model.zero_grad()
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
