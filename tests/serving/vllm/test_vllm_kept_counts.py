"""How many tokens of each picture stay is known from the pictures' sizes; the policies themselves are the judge."""

import pytest
import torch

import lookaway as la
from lookaway.core.decision import LayerView
from lookaway.core.layout import ImageSpan, TokenLayout
from lookaway.core.vision_inputs import VisionInputs
from lookaway.serving.vllm.kept_counts import before_decoder, kept_counts

LAYERS, WIDTH = 4, 16
PROMPTS = {
    "one": [(6, 6)],
    "wide": [(3, 7)],
    "several": [(6, 6), (4, 4), (2, 5)],
    "tiny": [(1, 2)],
}
POLICIES = {
    "downsample": la.Downsample(2),
    "downsample-5": la.Downsample(5),
    "visionzip": la.VisionZip(0.3),
    "visionzip-count": la.VisionZip(9, dominant=0.5),
    "uniform": la.UniformKeep(0.37, layer=0),
    "uniform-count": la.UniformKeep(11, layer=0),
    "divprune": la.DivPrune(0.4),
    "cdpruner": la.CDPruner(7),
    "random": la.RandomKeep(0.5, layer=0),
    "dart": la.DART(layer=0, keep=0.3),
    "schedule": la.KeepSchedule([0.3] * LAYERS, ranking="text-similarity"),
}
ONE_PICTURE = ("divprune", "cdpruner", "random", "dart", "schedule")


def view_of(grids):
    lengths = [rows * columns for rows, columns in grids]
    slots, spans, start = [], [], 2
    for grid, length in zip(grids, lengths, strict=True):
        spans.append(ImageSpan(start, length, grid))
        slots += range(start, start + length)
        start += length + 3
    visual = torch.zeros(1, start, dtype=torch.bool)
    visual[0, slots] = True
    layout = TokenLayout(visual, ~visual, torch.zeros_like(visual), (tuple(spans),))
    draw = torch.Generator().manual_seed(0)
    hidden, keys = (torch.randn(1, start, width, generator=draw) for width in (WIDTH, 8))
    vision = VisionInputs(torch.rand(1, start, generator=draw) * visual, keys)
    return LayerView(0, LAYERS, layout, hidden, visual.sum(1), vision=vision)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", POLICIES)
def test_as_many_as_the_policy_keeps(name, prompt):
    policy, view = POLICIES[name], view_of(PROMPTS[prompt])
    (spans,) = view.layout.spans
    assert before_decoder(policy, LAYERS)
    counts = kept_counts(policy, LAYERS, spans)
    if name in ONE_PICTURE and len(spans) > 1:
        assert counts is None
        return
    keep = policy.decide(view).keep
    kept = view.layout.visual if keep is None else keep & view.layout.visual
    assert counts == [int(kept[0, span.start : span.start + span.length].sum()) for span in spans]


@pytest.mark.parametrize(
    "policy",
    [
        la.ExitAt(2),
        la.KeepAll(),
        la.Downsample(1),
        la.DivPrune(0.5, layer=1),
        la.KeepSchedule([0.5, 0.5, 0.2, 0.2], ranking="diversity"),
        la.chain(la.DivPrune(0.5), la.ExitAt(2)),
        la.SecondLook(la.DivPrune(0.1), la.KeepAll()),
    ],
    ids=repr,
)
def test_what_also_works_inside_the_decoder_shortens_no_prompt(policy):
    assert not before_decoder(policy, LAYERS)


def test_a_grid_that_is_not_known():
    assert kept_counts(la.Downsample(2), LAYERS, [ImageSpan(0, 36, None)]) is None
