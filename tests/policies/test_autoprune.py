"""AutoPrune: mutual information and keep curve against examples by hand and plain loops; budgets are kept."""

from math import exp, floor, log2
from types import SimpleNamespace

import pytest
import torch

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.core.errors import LookawayError, SettingsError
from lookaway.core.layout import TokenLayout
from lookaway.policies.baselines.autoprune import _look, keep_counts, mutual_information


def seen(weights):
    """A view of two visual tokens and then the text, whose attention is `weights` [H, T, 2]."""
    heads, texts, visual = weights.shape
    mask = torch.zeros(1, visual + texts, dtype=torch.bool)
    mask[:, :visual] = True
    layout = TokenLayout.from_masks(mask)
    whole = torch.zeros(1, heads, visual + texts, visual + texts)
    whole[0, :, visual:, :visual] = weights
    inputs = SimpleNamespace(weights=lambda rows: whole[:, :, rows[0]])
    return la.LayerView(2, 32, layout, torch.zeros(1, visual + texts, 4), layout.visual_counts, inputs)


def bits(weights):
    view = seen(weights)
    return float(mutual_information(_look(view), view.layout.visual))


def test_information_by_hand():
    """Each of two words looks at its own token with half of its attention: p(x, y) = 1/4 on the diagonal, p(x) = 1/2,
    p(y) = 1/4: two times 1/4 log2(2) = 1/2 bit a head, in 32 heads 16. Both looking at both alike: nothing."""
    apart = torch.tensor([[[0.5, 0.0], [0.0, 0.5]]])
    assert bits(apart) == pytest.approx(32 * 0.5, rel=1e-4)
    alike = torch.full((1, 2, 2), 0.25)
    assert bits(alike) == pytest.approx(0, abs=1e-3)
    assert bits(torch.cat([apart, alike])) == pytest.approx(32 * 0.25, rel=1e-3)  # a mean over heads


def test_information_is_the_public_formula_in_plain_loops():
    weights = torch.rand(3, 150, 5, generator=torch.Generator().manual_seed(0)) / 8  # more rows than one chunk
    expected = 0.0
    for head in weights.tolist():
        marginal = [sum(row[y] for row in head) / len(head) for y in range(5)]
        for row in head:
            for y, weight in enumerate(row):
                both = weight / len(head)
                expected += both * log2(max(both / (marginal[y] / len(head) + 1e-6), 1e-6))
    assert bits(weights) == pytest.approx(expected * 32 / 3, rel=1e-4)


def test_a_flat_curve_by_hand():
    """576 tokens, 64 a layer on average over 32 layers: 2048, of which two whole layers take 1152; 896 are left for 30
    layers, 29 each."""
    counts = keep_counts(torch.zeros(1), torch.tensor([576]), torch.tensor([64]), 32, 2, 14.9)
    assert counts.tolist() == [[29] * 30]


@pytest.mark.parametrize("k", [0.1, 0.4, 3.0])
def test_a_steep_curve_is_the_highest_one_within_the_budget(k):
    counts = keep_counts(torch.tensor([k]), torch.tensor([576]), torch.tensor([64]), 32, 2, 14.9)[0].tolist()
    curve = [1 / (1 + exp(k * (layer - 1 - 14.9 - k))) for layer in range(2, 32)]  # the public code counts from 1

    def at(height):
        return [max(floor(min(height * share, 1) * 576), 1) for share in curve]

    fits = [height for height in (step / 5000 for step in range(1, 10000)) if sum(at(height)) <= 896]
    assert counts == sorted(counts, reverse=True)
    assert all(abs(ours - theirs) <= 1 for ours, theirs in zip(counts, at(max(fits)), strict=True))
    assert sum(n for n in counts if n > 1) <= 896


def test_the_more_the_text_agrees_the_steeper_and_every_row_keeps_its_budget():
    example = tiny("llava", num_layers=8)
    policy = la.AutoPrune(budget=0.5, layer=1, steepness=2.0, gamma=4.0, recycle=0.0)
    with torch.no_grad(), la.attach(example.model, policy) as run:
        example.model(**example.inputs("left_padded"))
    trace = run.trace
    information = trace.notes[1]["information"]
    assert len(set(information)) > 2  # rows differ
    for row, whole in enumerate(trace.initial_visual_tokens):
        kept = [layer[row] for layer in trace.visual_tokens]
        assert kept == sorted(kept, reverse=True)
        assert sum(kept) <= 8 * round(0.5 * whole) + 8  # one token may stay where the budget asks for none
        assert not whole or sum(kept) > 8 * 0.5 * whole - 8  # and it is used


def test_what_does_not_fit_is_refused_with_the_cure():
    example = tiny("llava")
    for wrong, match in (({"budget": 0}, "no visual token"), ({"layer": 0}, "from 1 on"),
                         ({"steepness": -1}, "from 0 on"), ({"recycle": 2}, "from 0 to 1")):  # fmt: skip
        with pytest.raises(SettingsError, match=match):
            la.AutoPrune(**wrong)
    with pytest.raises(SettingsError, match="allows 1 to 3"):
        la.attach(example.model, la.AutoPrune(layer=4))
    with la.attach(example.model, la.AutoPrune(budget=0.25, layer=1)), pytest.raises(SettingsError, match="CDPruner"):
        example.model(**example.inputs("single"))
    view = seen(torch.rand(1, 3, 2))
    with pytest.raises(LookawayError, match="before layer 1"):
        la.AutoPrune(layer=1).decide(view)
