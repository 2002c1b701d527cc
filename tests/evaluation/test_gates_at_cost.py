"""Exit gates with their threshold moved to another policy's cost, held against live runs."""

import pytest
import torch

import lookaway as la
from lookaway.core.record import Sample
from lookaway.evaluation.beside import baselines_for
from lookaway.evaluation.gates_at_cost import gates_at_cost
from lookaway.evaluation.runner import evaluate_policy


@pytest.fixture(scope="module")
def loaded():
    from lookaway.anatomy.tiny import tiny
    from lookaway.anatomy.tiny.processor import tiny_processor

    return tiny("llava", num_layers=6).model, tiny_processor()


@pytest.fixture(scope="module")
def samples():
    import numpy as np
    from PIL import Image

    rng, found = np.random.default_rng(1), []
    for number in range(9):
        picture = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        content = [{"type": "image"}, {"type": "text", "text": f"what is {number}" + "?" * (number % 3)}]
        found.append(Sample(str(number), [{"role": "user", "content": content}], (picture,), "ab"))
    return found


def gates(**settings):
    """Gates whose probabilities differ between samples and layers."""
    torch.manual_seed(3)
    made = la.ExitGates(32, (2, 3, 4), width=4)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(3)
    return la.VisualExit(made, **settings)


def live(loaded, samples, policy):
    results = evaluate_policy(*loaded, policy, samples, batch_size=4, max_new_tokens=1)
    return results, sum(result.flops for result in results)


@pytest.mark.parametrize("read_every", [1, 2])
def test_they_spend_what_they_are_asked_to_or_the_next_more_that_a_threshold_gives(loaded, samples, read_every):
    policy = gates(read_every=read_every)
    cheapest, whole = (live(loaded, samples, policy.with_threshold(t))[1] for t in (0.0, 1.0))
    assert cheapest < whole
    spends = set()
    for part in (0.1, 0.35, 0.6, 0.9):
        wanted = int(cheapest + part * (whole - cheapest))
        found, reached = gates_at_cost(*loaded, samples, policy, wanted, batch_size=4)
        assert reached
        _, spent = live(loaded, samples, found)
        assert spent >= wanted
        spends.add(spent)
        for lower in (0.999, 0.99, 0.9, 0.5):  # no lower threshold would have been enough
            _, less = live(loaded, samples, found.with_threshold(found.threshold * lower))
            assert less <= spent
            assert less < wanted or less == spent
    assert len(spends) > 1


def test_gates_that_cannot_be_as_cheap_stand_at_their_cheapest_and_say_so(loaded, samples):
    policy = gates()
    _, cheapest = live(loaded, samples, policy.with_threshold(0.0))
    found, reached = gates_at_cost(*loaded, samples, policy, cheapest - 1)
    assert (found.threshold, reached) == (0.0, False)
    results, _ = live(loaded, samples, la.ExitAt(1))
    rows = baselines_for(results, la.anatomy(loaded[0]), {"mine": policy}, {"mine": (found, reached)})
    own = {one.name: one.own_cost for one in rows if "gates" in one.name}
    assert own == {"gates alone (mine), at their cheapest": True, "gates alone (mine)": True}
    found, reached = gates_at_cost(*loaded, samples, policy, cheapest)
    assert reached
    rows = baselines_for(results, la.anatomy(loaded[0]), {"mine": policy}, {"mine": (found, reached)})
    (row,) = [one for one in rows if one.name.startswith("gates alone (mine), threshold")]
    assert not row.own_cost
