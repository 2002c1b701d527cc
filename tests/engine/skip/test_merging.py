"""Merged equals unmerged, unmerging gives the bits back, what forbids merging leaves the weights alone."""

import pytest
import torch
from test_skipping import FULL, adapters, attributes, double, model_of, policy

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.core.errors import AttachError, DataError, ModelMismatch, SettingsError, UnsupportedModel
from lookaway.engine.api import attach
from lookaway.modules.adapters import AdapterShape, SkipAdapters, lavin_shape

MERGEABLE = {
    "recommended": AdapterShape(width=8, start="random"),
    "each-layer": AdapterShape(width=8, start="random", once=False, groups=2),
    "all": AdapterShape(width=8, start="random", pool="all", once=False),
    "no-pool": AdapterShape(width=8, start="random", pool="none", scale=0.5),
    "published-place": AdapterShape(width=8, start="random", reads="attention", pool="all", once=False, groups=2),
}


def trained(shape, layers, dtype=torch.float32, hidden=32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = SkipAdapters(hidden, layers, shape)
        for parameter in made.parameters():
            parameter.data = parameter.data + 0.1 * torch.randn_like(parameter)
    return la.AttentionSkip(layers, made.to(dtype).eval())


def with_gains(example):
    """Norm gains that differ, as in trained models."""
    draw = torch.Generator().manual_seed(1)
    for layer in example.model.model.language_model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.data = norm.weight.data * (0.5 + torch.rand(32, generator=draw))
    return example


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("family", "name"),
    [*(("llava", name) for name in MERGEABLE), ("llava_onevision", "recommended"), ("llava_onevision", "all")],
)
def test_merged_equals_unmerged_and_comes_out_to_the_bit(family, name):
    example = with_gains(tiny(family))
    model, inputs = example.model, example.inputs("left_padded")
    chosen = trained(MERGEABLE[name], (0, 2, 3))
    before = state(model)
    with attach(model, chosen):
        unmerged = model.generate(**inputs, **FULL)
    merged = la.merge(model, chosen)
    assert merged.merged
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(any(f"layers.{layer}." in key for layer in (0, 2, 3)) for key in changed)
    with attach(model, merged) as run:
        found = model.generate(**inputs, **FULL)
    assert torch.equal(found.sequences, unmerged.sequences)
    scale = torch.stack(unmerged.logits).abs().max()
    assert (torch.stack(found.logits) - torch.stack(unmerged.logits)).abs().max() < 1e-5 * max(scale, 1)
    assert run.trace.skipped == [0, 2, 3]

    assert la.unmerge(model) is chosen
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with attach(model, chosen):
        assert torch.equal(model.generate(**inputs, **FULL).sequences, unmerged.sequences)


def test_a_merged_model_is_an_ordinary_folder_and_a_small_policy(tmp_path):
    example = tiny("llava")
    model, inputs = example.model, example.inputs("left_padded")
    chosen = trained(MERGEABLE["recommended"], (1, 3))
    with attach(model, chosen), torch.no_grad():
        expected = model(**inputs).logits
    merged = la.merge(model, chosen)
    model.save_pretrained(tmp_path / "model")
    merged.save_pretrained(tmp_path / "policy")
    la.unmerge(model)

    loaded = type(model).from_pretrained(tmp_path / "model").eval()
    policy = la.load(tmp_path / "policy")
    assert policy.merged
    real = inputs["attention_mask"].bool()
    with attach(loaded, policy), torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits[real], expected[real], atol=2e-5, rtol=1e-4)
    with pytest.raises(AttachError, match="merged into this model already"):
        attach(loaded, chosen)
    with pytest.raises(AttachError, match="not merged in this process"):
        la.unmerge(loaded)
    with pytest.raises(ModelMismatch, match="holds other weights"):
        attach(model, policy)


def test_without_its_policy_a_merged_model_whose_adapters_do_not_pool_is_the_same_but_for_constant_biases():
    example = with_gains(model_of())
    model, inputs = example.model, double(example.inputs())
    made = trained(AdapterShape(width=8, start="random", pool="none"), (1, 2), torch.float64)
    for adapter in made.adapters.values():
        adapter.token.bias.data.zero_()
        adapter.up_bias.data.zero_()
    with attach(model, made), torch.no_grad():
        expected = model(**inputs).logits
    la.merge(model, made)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-9, rtol=1e-9)
    la.unmerge(model)


def test_merged_in_bf16_stays_near():
    example = tiny("llava")
    model, inputs = example.model.bfloat16(), example.inputs("left_padded")
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    chosen = trained(AdapterShape(width=8), (1, 3))
    with attach(model, chosen), torch.no_grad():
        expected = model(**inputs, logits_to_keep=1).logits
    with attach(model, la.merge(model, chosen)), torch.no_grad():
        found = model(**inputs, logits_to_keep=1).logits
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()
    la.unmerge(model)


def test_a_chain_is_merged_too():
    example = tiny("llava")
    model, inputs = example.model, example.inputs("left_padded")
    both = la.chain(trained(MERGEABLE["recommended"], (1,)), la.ExitAt(2))
    with attach(model, both), torch.no_grad():
        expected = model(**inputs, logits_to_keep=1).logits
    with attach(model, la.merge(model, both)) as run, torch.no_grad():
        found = model(**inputs, logits_to_keep=1).logits
    assert run.trace.exit_layers == [2, 2, None, 2]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert la.unmerge(model) is both


def test_what_forbids_merging_leaves_the_weights_alone():
    example = tiny("llava")
    model = example.model
    layers = model.model.language_model.layers
    before, names = state(model), attributes(model)
    chosen = trained(MERGEABLE["recommended"], (1, 3))
    with pytest.raises(SettingsError, match="weigh their experts by the prompt"):
        la.merge(model, trained(lavin_shape(8), (1,)))
    with pytest.raises(SettingsError, match="no adapters: there is nothing to merge"):
        la.merge(model, la.AttentionSkip((1,)))
    with pytest.raises(SettingsError, match="no adapters"):
        la.merge(model, la.ExitAt(2))
    with pytest.raises(ModelMismatch, match="reads states of 16 numbers"):
        la.merge(model, trained(MERGEABLE["recommended"], (1,), hidden=16))
    with attach(model, la.KeepAll()), pytest.raises(AttachError, match="attached to this model already"):
        la.merge(model, chosen)
    with pytest.raises(AttachError, match="not merged in this process"):
        la.unmerge(model)

    # The last layer's FFN or norms cannot hold an adapter: the first layer's must not hold one either.
    up = layers[3].mlp.up_proj
    layers[3].mlp.up_proj = torch.nn.Sequential(up)
    with pytest.raises(UnsupportedModel, match="begins with Sequential"):
        la.merge(model, chosen)
    layers[3].mlp.up_proj = up
    layers[3].post_attention_layernorm.variance_epsilon = 1e-3
    with pytest.raises(UnsupportedModel, match="two norms of layer 3 differ"):
        la.merge(model, trained(MERGEABLE["published-place"], (1, 3)))
    layers[3].post_attention_layernorm.variance_epsilon = layers[3].input_layernorm.variance_epsilon
    assert attributes(model) == names
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    merged = la.merge(model, chosen)
    once = state(model)
    for again in (chosen, merged):
        with pytest.raises(AttachError, match="merged into this model already"):
            la.merge(model, again)
    assert all(torch.equal(value, once[key]) for key, value in model.state_dict().items())
    with attach(model, merged), pytest.raises(AttachError, match="attached to this model already"):
        la.unmerge(model)
    la.unmerge(model)


def test_damaged_policies_are_refused(tmp_path):
    chosen = policy("recommended", (1,))
    config, tensors = chosen.to_config(), chosen.tensors()
    with pytest.raises(DataError, match=r"weight '1.token.weight' is missing"):
        la.AttentionSkip.from_config(config, {k: v for k, v in tensors.items() if "token.weight" not in k})
    with pytest.raises(DataError, match="holds NaN"):
        la.AttentionSkip.from_config(config, {k: v * float("nan") for k, v in tensors.items()})
    with pytest.raises(DataError, match="attention-skip policy of this version"):
        la.AttentionSkip.from_config({"sets": 1}, {})
    model = tiny("llava").model
    merged = la.merge(model, trained(MERGEABLE["recommended"], (1,)))
    la.unmerge(model)
    config, tensors = merged.to_config(), merged.tensors()
    with pytest.raises(DataError, match=r"weight '1.mixed' is missing"):
        la.AttentionSkip.from_config(config, {k: v for k, v in tensors.items() if "mixed" not in k})
    with pytest.raises(SettingsError, match="no adapter for layer 2"):
        la.AttentionSkip((1, 2), adapters("recommended", (1,)))
