"""What `measure_speed` counts of a second look: both passes, as its trace says and as PyTorch executes them."""

from dataclasses import replace

import pytest
import torch

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.evaluation.cost import counted_flops
from lookaway.evaluation.decoder_alone import DecoderAlone
from lookaway.evaluation.forced_looks import ForcedLook
from lookaway.evaluation.limit import Machine, prefill_limit
from lookaway.evaluation.speed import measure_speed

ROWS = 3
LOOK = la.SecondLook(la.ExitAt(1), la.ExitAt(3), 0.5)


def prompts(small):
    """One prompt `ROWS` times, as the bench makes its batches."""
    one = small.inputs("single")
    return {name: torch.cat([value] * ROWS) for name, value in one.items()}


@pytest.mark.parametrize("family", ["llava", "idefics3", "qwen2_5_vl"])
def test_flops_of_a_second_look_are_those_of_both_passes(family):
    small = tiny(family)
    model, inputs = small.model, prompts(small)
    rows = measure_speed(model, inputs, exits=(), policies={"look": LOOK}, new_tokens=(1,), repeats=1, warmup=0)
    timed = {row.variant: row for row in rows if row.part == "decoder"}
    decoder = DecoderAlone(model, dict(inputs))
    full = counted_flops(decoder)
    shares = {}
    for again in (0, 1, ROWS):
        row = timed[f"look, {again} of {ROWS} again"]
        with la.attach(model, ForcedLook.of(LOOK, again)) as run, torch.no_grad():
            model(**inputs, use_cache=True, logits_to_keep=1)
        cost, shape = run.trace.cost(), run.trace.shape
        assert sum(run.trace.looked_again) == again
        head = 2 * ROWS * shape.hidden_size * shape.vocab_size
        assert row.implied_flops == pytest.approx((cost.full_flops + head) / (cost.flops + head))
        with la.attach(model, ForcedLook.of(LOOK, again)):
            executed = counted_flops(decoder) - head  # it reads the logits of its first pass, too
        assert row.implied_flops == pytest.approx(full / executed, rel=2e-3)  # rotary phases are not counted
        assert row.implied is not None
        assert row.efficiency is not None
        shares[again] = cost.flops_share
    # layers 0 to 2 see the picture in the pass with ExitAt(3); the first pass adds layers of text: dearer than either
    assert shares[0] < shares[1] < shares[ROWS]
    assert timed[f"look, {ROWS} of {ROWS} again"].limit > timed[f"look, 1 of {ROWS} again"].limit
    whole = la.SecondLook(la.ExitAt(1), la.KeepAll(), 0.5)
    with la.attach(model, ForcedLook.of(whole, ROWS)) as run, torch.no_grad():
        model(**inputs, use_cache=True, logits_to_keep=1)
    assert run.trace.cost().flops_share > 1  # no row may be said to cost what the full model does


def test_the_limit_counts_layers_that_ran_twice_twice():
    small = tiny("llava")
    with la.attach(small.model, ForcedLook.of(LOOK, 1)) as run, torch.no_grad():
        small.model(**prompts(small), use_cache=True)
    slow = Machine(flops=1.0, bandwidth=1e30)  # arithmetic alone: additive over rows and passes
    trace = replace(run.trace, tail=None)
    once = replace(trace, first_pass_tokens=[])
    first = [[seen[0]] for seen in trace.first_pass_tokens]
    alone = replace(once, exit_layers=[None], tokens=first, visual_tokens=[[0]] * len(first))
    head = 2 * trace.shape.hidden_size * trace.shape.vocab_size
    assert prefill_limit(trace, slow) == pytest.approx(prefill_limit(once, slow) + prefill_limit(alone, slow) - head)
    assert prefill_limit(alone, slow) > head
