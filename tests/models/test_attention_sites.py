"""Every site is one module, and switches only itself."""

from __future__ import annotations

import pytest
import torch
from test_meter import inputs
from torch import nn
from transformers import BridgeTowerConfig, BridgeTowerModel

from lookaway.core.errors import SettingsError, UnsupportedModel
from lookaway.models.attention_sites import attention_sites, skip_attention
from lookaway.models.tiny_models import tiny_lavin, tiny_meter, tiny_vilt


def vilt_inputs():
    given = inputs()
    return given | {"token_type_ids": torch.zeros_like(given["input_ids"])}


@torch.no_grad()
def logits(model, given):
    """ViLT draws the order of its patches anew in every forward, so the draw is held still."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model(**given).logits


class Calls:
    """Which modules were called in a forward."""

    def __init__(self, modules):
        self.modules, self.count = modules, [0] * len(modules)

    def __enter__(self):
        def counting(i):
            def hook(*args):
                self.count[i] += 1

            return hook

        self.hooks = [m.register_forward_hook(counting(i)) for i, m in enumerate(self.modules)]
        return self

    def __exit__(self, *exc):
        for hook in self.hooks:
            hook.remove()


@torch.no_grad()
@pytest.mark.parametrize("host", ["meter", "vilt"])
def test_each_arm_switches_one_module_and_no_other(host):
    model, given = (tiny_meter(), inputs()) if host == "meter" else (tiny_vilt(), vilt_inputs())
    sites = attention_sites(model)
    assert len({id(site.module) for site in sites}) == len(sites) == (12 if host == "meter" else 3)
    # what attends: of METER the heads inside the site, whose residual and norm stay
    attending = [site.module.self if host == "meter" else site.module for site in sites]
    full = logits(model, given)
    for number in range(len(sites)):
        with skip_attention(model, [number]), Calls(attending) as calls:
            out = logits(model, given)
        assert calls.count == [int(i != number) for i in range(len(sites))]
        if host == "vilt" or sites[number].layer < 2 or sites[number].kind.endswith("self"):
            assert (out - full).abs().max() > 1e-4
    assert torch.equal(logits(model, given), full)


@torch.no_grad()
def test_published_order_of_meters_arms():
    names = [site.name for site in attention_sites(tiny_meter())]
    kinds = ("text-self", "text-cross", "image-self", "image-cross")
    assert names == [f"{kind} {layer}" for kind in kinds for layer in range(3)]
    assert [site.index for site in attention_sites(tiny_meter())] == list(range(12))


class Half(nn.Module):
    def forward(self, hidden, context):
        return 0.5 * hidden + context.mean(1, keepdim=True)


class Same(nn.Module):
    def forward(self, hidden, context):
        return hidden


@torch.no_grad()
def test_a_stand_in_gets_states_and_context_and_keeps_residual_and_norm():
    model, given = tiny_meter(), inputs()
    site = attention_sites(model)[3]  # text-cross of layer 0
    seen = {}
    hook = site.module.register_forward_hook(lambda m, args, out: seen.update(args=args, out=out))
    with skip_attention(model, {3: Half()}):
        model(**given)
    hook.remove()
    text, image = seen["args"][:2]
    expected = site.module.output.LayerNorm(1.5 * text + image.mean(1, keepdim=True))
    torch.testing.assert_close(seen["out"], expected)


@torch.no_grad()
def test_in_vilt_a_linear_stand_in_merges_into_the_ffn_and_in_meter_a_norm_is_in_the_way():
    """ViLT: without the inner residual, FFN(g * A(z) + b) is one linear map of z. METER: twice the input, not twice the
    output, so no linear map can do it."""
    model = tiny_vilt()
    layer, norm = attention_sites(model)[0].owner, attention_sites(model)[0].owner.layernorm_after
    assert attention_sites(model)[0].merges
    torch.manual_seed(0)
    adapter, z = nn.Linear(16, 16), torch.randn(2, 7, 16)
    dense = layer.intermediate.dense
    behind = dense(norm.weight * adapter(z) + norm.bias)
    weight = dense.weight @ (norm.weight[:, None] * adapter.weight)
    bias = dense.weight @ (norm.weight * adapter.bias + norm.bias) + dense.bias
    torch.testing.assert_close(nn.functional.linear(z, weight, bias), behind, atol=1e-5, rtol=1e-4)
    site = attention_sites(tiny_meter())[0]
    assert not site.merges
    assert "norm follows" in site.why
    with torch.no_grad():
        site.module.replacement = Same()
        site.module.output.LayerNorm.bias.zero_()
        once, twice = site.module(z, z), site.module(2 * z, 2 * z)
    assert (twice - once).abs().max() < 0.1 * once.abs().max()  # a linear map would have doubled


def test_decoders_and_bridgetower_have_arms_too():
    lavin = attention_sites(tiny_lavin())
    assert [site.name for site in lavin] == [f"self {i}" for i in range(4)]
    assert all(site.merges and site.owner.self_attn is site.module for site in lavin)
    config = BridgeTowerConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=16,
                               text_config={"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2,
                                            "vocab_size": 20, "intermediate_size": 16},
                               vision_config={"hidden_size": 64, "num_hidden_layers": 3, "image_size": 16,
                                              "patch_size": 8})  # fmt: skip
    bridge = attention_sites(BridgeTowerModel(config))
    assert len({id(site.module) for site in bridge}) == 8
    assert not any(site.merges for site in bridge)


def test_what_cannot_be_skipped_is_named():
    with pytest.raises(SettingsError, match=r"no site 12: .* has sites 0 to 11"), skip_attention(tiny_meter(), [12]):
        pass
    with pytest.raises(UnsupportedModel, match="attach a policy to a 'lavin' model"), skip_attention(tiny_lavin(), [0]):
        pass
    with pytest.raises(UnsupportedModel, match="No attentions are known in Linear"):
        attention_sites(nn.Linear(2, 2))


@torch.no_grad()
def test_everything_comes_back_when_the_body_raises():
    model, given = tiny_vilt(), vilt_inputs()
    before = logits(model, given)
    with pytest.raises(RuntimeError, match="stop"), skip_attention(model, {0: Half(), 2: Same()}):
        raise RuntimeError("stop")
    assert torch.equal(logits(model, given), before)
