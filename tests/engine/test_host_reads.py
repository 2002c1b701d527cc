"""How often the host waits for the device in one prefill, policy by policy; docs/speed.md has the table."""

from itertools import pairwise

import pytest
import torch
from cases import CASES, HIDDEN, gates
from fake_devices import FIRST, Placed, shard, two_devices
from host_reads import counted_reads
from shared_tiny import tiny, tiny_once

import lookaway as la
from lookaway.anatomy.find import anatomy_of
from lookaway.engine.api import attach
from lookaway.engine.prefill.start import prompt_layout

LAYOUT = "lookaway/core/layout.py"
NEVER = 0.999999


def prefill_reads(policy, family="llava", kind="single", layers=4):
    """Where lookaway's own code read from the device in one prefill of a tiny model."""
    example = tiny(family, num_layers=layers)
    inputs = example.inputs(kind)
    make = policy if callable(policy) else lambda rows: policy
    with two_devices(), torch.no_grad():
        shard(example.model, [])
        given = {name: value.to(FIRST) for name, value in inputs.items()}
        with attach(example.model, make(len(inputs["input_ids"]))), counted_reads() as reads:
            example.model(**given)
    return [read for read in reads if read.startswith("lookaway/")]


class TestTheCounter:
    @pytest.mark.parametrize(
        ("read", "count"),
        [
            (lambda x: x.tolist(), 1),
            (lambda x: x[0].item(), 1),
            (lambda x: bool(x.any()), 1),
            (lambda x: x.cpu(), 1),
            (lambda x: x.nonzero(), 1),
            (lambda x: x[x > 0], 1),
            (lambda x: torch.masked_select(x, x > 0), 1),
            (lambda x: (x + x).sum(), 0),
            (lambda x: x[torch.tensor([0, 1])], 0),
            (lambda x: x.cpu().tolist(), 1),
        ],
    )
    def test_counts_what_waits(self, read, count):
        with two_devices():
            values = torch.arange(3.0).to(FIRST)
            assert isinstance(values, Placed)
            with counted_reads() as reads:
                read(values)
        assert len(reads) == count


READS_MORE = {
    "twig-then-visual-exit": 1,  # the gates are asked before the layer where the twig has just chosen: a new question
}


@pytest.mark.parametrize("name", CASES)
def test_the_layout_is_read_once(name):
    reads = prefill_reads(CASES[name].make)
    assert len([read for read in reads if read.startswith(LAYOUT)]) == 1 + READS_MORE.get(name, 0)


MORE = {
    # a decision of one row at a layer where nothing of it is left, or of gates that do not fire
    "exit-at-rows": (0, 1),
    "visual-exit": (1, 5),
    "visual-exit-shared": (3, 4),
    "visual-exit-published": (1, 1),
    "visual-exit-late": (1, 1),
    "visual-exit-groups": (0, 1),
    "attention-skip-and-exit": (1, 1),
    "chain": (2, 6),
    "exit-then-schedule": (2, 3),
    "before-then-gates": (2, 3),
    # how many tokens of the question rate
    "ranking-text-raters": (2, 2),
    "sparsevlm": (2, 2),
    "sparsevlm-adaptive": (2, 2),
    "sparsevlm-0.1": (2, 2),
    # whether the budget is used up; asked at layers where nothing has to leave
    "autoprune": (3, 3),
    "autoprune-no-merge": (2, 2),
    "autoprune-in-chain": (3, 3),
    # which rows look again; what leaves and which columns there are then
    "second-look": (1, 3),
    "twig-second-look": (3, 3),
    # the split of text and frozen tokens, anew after each removal
    "shortv": (1, 1),
    "shortv-all": (1, 1),
    "shortv-then-exit": (1, 3),
    "shortv-before-and-visual-exit": (3, 5),
    "shortv-and-skip": (1, 1),
    # whether positions count the tokens one by one
    "cdpruner-renumber": (1, 1),
    "visionzip-renumber": (1, 1),
    "twig-renumbered-in-chain": (1, 1),
    "downsample-renumber-visual-exit": (3, 4),
    "twig-then-visual-exit": (3, 4),
}
"""Reads beyond one for the layout and one for each layer before which something leaves: of one row, of four."""


@pytest.mark.parametrize("kind", ["single", "left_padded"])
@pytest.mark.parametrize("name", CASES)
def test_every_policy_reads_once_for_the_layout_once_a_removal_and_for_what_is_named(name, kind):
    example = tiny_once("llava")
    inputs = example.inputs(kind)
    with torch.no_grad(), attach(example.model, CASES[name].make(len(inputs["input_ids"]))) as run:
        example.model(**inputs)
        trace = run.trace
    tokens = [trace.prompt_tokens or trace.tokens[0], *trace.tokens]
    removals = sum(before != after for before, after in pairwise(tokens))
    more = MORE.get(name, (0, 0))[kind == "left_padded"]
    assert len(prefill_reads(CASES[name].make, kind=kind)) == 1 + removals + more


@pytest.mark.parametrize("kind", ["single", "left_padded"])
@pytest.mark.parametrize(
    ("policy", "count"),
    [
        (la.KeepAll(), 1),
        (la.ExitAt(2), 2),
        (la.FastV(), 2),
        (la.DivPrune(0.3), 2),
        (la.CDPruner(0.3), 2),
        (la.DART(layer=1, keep=0.5), 2),
        (la.VisionZip(0.5), 2),
        (la.Downsample(2), 2),
        (la.ShortV((1, 2)), 2),
        (la.KeepSchedule((1.0, 0.5, 0.5, 0.25)), 3),
        (la.chain(la.FastV(), la.ExitAt(3)), 3),
    ],
    ids=lambda value: value.name if isinstance(value, la.Policy) else str(value),
)
def test_one_read_for_the_layout_and_one_a_removal(policy, count, kind):
    assert len(prefill_reads(policy, kind=kind)) == count


@pytest.mark.parametrize("kind", ["single", "left_padded"])
def test_pictures_at_their_own_size_cost_one_read_more(kind):
    example = tiny("qwen2_vl")  # transformers' own forward does not run on the posing tensors
    inputs = example.inputs(kind)
    expected = prompt_layout(anatomy_of(example.model), inputs)
    with two_devices():
        given = {name: value.to(FIRST) for name, value in inputs.items()}
        with counted_reads() as reads:
            layout = prompt_layout(anatomy_of(example.model), given)
    assert len(reads) == 2
    assert layout.spans == expected.spans
    assert all(span.grid for row in layout.spans for span in row)


@pytest.mark.parametrize("threshold", [NEVER, 0.0])
@pytest.mark.parametrize("kind", ["single", "left_padded"])
@pytest.mark.parametrize(("every", "count"), [(1, 8), (2, 4), (3, 3), (8, 1), (50, 1)])
def test_gates_in_groups_read_once_a_group(every, count, kind, threshold):
    """The removal is in that read: an exit in the first group needs no other, and nobody is asked after it."""
    policy = la.VisualExit(gates(layers=tuple(range(1, 9))), threshold=threshold, read_every=every)
    reads = len(prefill_reads(policy, kind=kind, layers=9))
    if threshold:
        assert reads == 1 + count
    else:
        assert reads == (2 if every > 1 else 3)


@pytest.mark.parametrize("count", [4, 9])
def test_gates_read_once_a_candidate_layer(count):
    policy = la.VisualExit(gates(layers=tuple(range(1, count))), threshold=NEVER)
    assert policy.gates.hidden_size == HIDDEN
    assert len(prefill_reads(policy, layers=count)) == 1 + count - 1
