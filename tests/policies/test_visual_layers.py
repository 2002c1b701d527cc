"""`visual_layers()`: which visual tokens stayed for how long, held against the trace, the outputs and the policy."""

from functools import cache

import pytest
import torch
from cases import CASES, LAYERS

import lookaway as la
from lookaway.anatomy.tiny import IMAGE, tiny
from lookaway.core.errors import AttachError

tiny_once = cache(tiny)


def ran(policy, family="llava", batch="left_padded"):
    example = tiny_once(family)
    with torch.no_grad(), la.attach(example.model, policy) as run:
        example.model(**example.inputs(batch))
        return run.visual_layers(), run.trace, run.kept_columns(), example.inputs(batch)


@pytest.mark.parametrize("batch", ["left_padded", "right_padded"])
@pytest.mark.parametrize("name", CASES)
def test_the_tokens_that_are_left_add_up_to_the_trace(name, batch):
    policy = CASES[name].make(4)
    seen, trace, (columns, valid), inputs = ran(policy, batch=batch)
    assert [len(row) for row in seen] == trace.initial_visual_tokens
    for layer in range(LAYERS):
        assert [sum(count > layer for count in row) for row in seen] == trace.visual_tokens[layer], layer
    if not trace.skipped:  # which of them: those that the outputs stand for
        for row, counts in enumerate(seen):
            visual = (inputs["input_ids"][row] == IMAGE).nonzero().flatten()
            stayed = [int(c) for c, count in zip(visual, counts, strict=True) if count == LAYERS]
            kept = set(columns[row][valid[row]].tolist())
            assert stayed == [int(c) for c in visual if int(c) in kept]


def test_rows_that_look_again_show_the_pass_they_ended_with():
    first, then = (la.KeepSchedule.from_steps({2: share}, LAYERS, ranking="uniform") for share in (0.2, 0.7))
    again, _, _, _ = ran(la.SecondLook(first, then, 1.0))
    never, _, _, _ = ran(la.SecondLook(first, then, 0.0))
    assert again == ran(then)[0]
    assert never == ran(first)[0]
    assert again != never


def test_without_a_prompt_there_is_nothing_to_show():
    with la.attach(tiny_once("llava").model, la.ExitAt(2)) as run, pytest.raises(AttachError, match="No prompt ran"):
        run.visual_layers()
