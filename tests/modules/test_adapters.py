"""Adapters: their sizes, starts and forms. tests/engine/skip/test_skipping.py holds their map against the formula."""

import pytest
import torch

from lookaway.core.attention_replacement import pooled_prompt
from lookaway.core.errors import SettingsError
from lookaway.modules.adapters import Adapter, AdapterShape, SkipAdapters, lavin_shape, llava_shape


def size(module):
    return sum(weight.numel() for weight in module.parameters())


def test_published_sizes():
    """Counts of the published modules (notes of the official code): LaVIN h 32, LLaVA h 256 and 128, width 4096."""
    with torch.device("meta"):
        assert size(Adapter(4096, lavin_shape(32))) == 409_666
        assert size(Adapter(4096, llava_shape(256, "random"))) == 3_162_626
        assert size(Adapter(4096, llava_shape(128, "random"))) == 1_589_506


@pytest.mark.parametrize("shape", [AdapterShape(width=8), lavin_shape(8), AdapterShape(width=8, pool="none")])
def test_the_start_is_the_identity(shape):
    adapter = Adapter(32, shape).eval()
    states = torch.randn(2, 5, 32)
    pooled = pooled_prompt(states, torch.ones(2, 5, dtype=torch.bool), adapter.without_first)
    context = adapter.context(pooled) if shape.pool != "none" else None
    assert torch.equal(adapter.changed(states, context), states)
    changed = Adapter(32, AdapterShape(width=8, start="random", pool="none")).eval().changed(states, None)
    assert (changed - states).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [llava_shape(8), lavin_shape(8, "random")], ids=["llava", "lavin"])
def test_the_published_arithmetic(shape):
    """As the official code writes it: 1x1 convolutions over [B, D, S], the router on a mean over positions.

    LLaVA-EAS routes on the mean of all positions, LaVIN-EAS on that of positions 1 and later; both add the mean of the
    first convolution's output over all positions.
    """
    torch.manual_seed(0)
    adapter = Adapter(16, shape).eval()
    for weight in adapter.parameters():
        weight.data.normal_(std=0.3)
    x = torch.randn(3, 7, 16)

    def convolved(values, weight, bias, groups=1):
        return torch.nn.functional.conv1d(values, weight[:, :, None], bias, groups=groups)

    seen = x[:, 1:] if shape.router_without_first else x
    weights = torch.softmax(adapter.router(seen.mean(1)) / 10, -1)[:, :, None, None]  # [3, 2, 1, 1]
    turned = x.transpose(1, 2)
    shared = convolved(turned, adapter.pooled.weight, adapter.pooled.bias).mean(-1, keepdim=True)
    hidden = 0.5 * (shared + convolved(turned, adapter.token.weight, adapter.token.bias))
    first, second = (convolved(hidden, adapter.up[j].flatten(0, 1), adapter.up_bias[j], groups=2) for j in (0, 1))
    expected = (weights[:, 0] * first + weights[:, 1] * second + turned).transpose(1, 2)
    pooled = pooled_prompt(x, torch.ones(3, 7, dtype=torch.bool), adapter.without_first)
    torch.testing.assert_close(adapter.changed(x, adapter.context(pooled)), expected, atol=2e-6, rtol=1e-6)


def test_groups_are_blocks():
    """The first half of the output reads only the first half of the hidden units."""
    adapter = Adapter(8, llava_shape(4, "random")).eval()
    up = torch.stack([adapter._up(unit[None, None], 0)[0, 0] for unit in torch.eye(4)], dim=1)  # [8, 4]
    assert torch.equal(up[:4, 2:], torch.zeros(4, 2))
    assert torch.equal(up[4:, :2], torch.zeros(4, 2))
    assert torch.equal(up[:4, :2], adapter.up[0, 0])


def test_in_an_attention_s_own_place_it_reads_the_other_stream():
    adapter = Adapter(32, AdapterShape(width=8, start="random", reads="attention", pool="all", once=False)).eval()
    states, other = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    found = adapter(states, other, mask)
    mean = torch.stack([other[0].mean(0), other[1, :4].mean(0)])
    torch.testing.assert_close(found, adapter.changed(states, adapter.context(mean)) - states, atol=1e-5, rtol=1e-5)
    other[1, 4:] = float("nan")  # padding may hold anything
    torch.testing.assert_close(adapter(states, other, mask), found)
    assert (adapter(states, other[:, :4]) - found)[0].abs().max() > 1e-4


def test_dropout_is_of_training_alone():
    adapter = Adapter(32, AdapterShape(width=8, start="random", dropout=0.5, pool="none"))
    states = torch.randn(1, 4, 32)
    assert not torch.equal(adapter.train().changed(states, None), adapter.changed(states, None))
    assert torch.equal(adapter.eval().changed(states, None), adapter.changed(states, None))


def test_round_trip_and_subsets():
    adapters = SkipAdapters(32, (3, 1), llava_shape(8, "random"))
    assert adapters.layers == (1, 3)
    again = SkipAdapters.from_config(adapters.to_config(), adapters.state_dict())
    assert not again.training
    assert all(torch.equal(value, adapters.state_dict()[name]) for name, value in again.state_dict().items())
    one = adapters.only((3,))
    assert one.replacement(3) is adapters.replacement(3)
    with pytest.raises(SettingsError, match=r"no adapter for layer 1; there are adapters for \[3\]"):
        one.replacement(1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 0}, "a width that its groups divide"),
        ({"width": 6, "groups": 4}, "a width that its groups divide"),
        ({"experts": 2}, "several experts need a router"),
        ({"router": True}, "several experts need a router"),
        ({"router": True, "experts": 2, "pool": "none"}, "A router reads the pooled prompt"),
    ],
)
def test_forms_that_cannot_be(settings, words):
    with pytest.raises(SettingsError, match=words):
        AdapterShape(**settings)


def test_groups_must_divide_the_model():
    with pytest.raises(SettingsError, match="4 groups do not divide a hidden size of 30"):
        Adapter(30, AdapterShape(width=8, groups=4))


def test_new_adapters_answer_the_same_twice():
    """They are put beside a model that answers, and only their training asks for dropout."""
    torch.manual_seed(0)
    made = SkipAdapters(16, (1,), AdapterShape(width=8, start="random", dropout=0.5))
    assert not any(module.training for module in made.modules())
    assert not any(module.training for module in made.only((1,)).modules())
