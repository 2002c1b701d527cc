"""`--cost seconds` on every family: what is timed runs there, second looks of forced rows too, and changes nothing."""

import math

import pytest
import torch
from prepared import FAMILIES, prepared

import lookaway as la
from lookaway.models.encoding import encode
from lookaway.search.fit.seconds import measure_seconds


def policies_for(anatomy):
    if anatomy.only_before:
        return {"before": (la.DivPrune(0.5), 0.0)}
    first = anatomy.first_prunable_layer
    found = {"exit": (la.ExitAt(first), 0.0)}
    if not anatomy.has_windows:
        found["look"] = (la.SecondLook(la.ExitAt(first), la.KeepAll(), 0.5), 0.5)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_are_timed_beside_the_full_model(family, samples):
    ready = prepared(family)
    model, processor, seen = ready.model, ready.processor, samples[:2]

    def plain():
        inputs = encode(processor, seen, model.device).inputs
        with torch.no_grad():
            return model.generate(**inputs, do_sample=False, max_new_tokens=2)

    before, runs = plain(), []
    policies = policies_for(la.anatomy(model))
    found = measure_seconds(
        model, processor, seen, policies, batch_size=2, batches=1, repeats=2, answer_tokens=2, progress=runs.append
    )
    assert set(found) == set(policies)
    variants = 1 + sum(3 if name == "look" else 1 for name in policies)  # none, one and all rows look again
    assert sum(runs) == variants * 3  # a warm-up and two repeats
    for one in found.values():
        assert one.seconds > 0
        assert one.full_seconds > 0
        assert math.isclose(one.speedup * one.share, 1.0)
        assert one.quartiles[0] <= one.quartiles[1]
        assert (one.batch_size, one.answer_tokens, one.rounds) == (2, 2, 2)
    assert torch.equal(plain(), before)
