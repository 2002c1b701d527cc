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


def gates(scale=0.3, **settings):
    """Gates whose probabilities differ between samples and layers."""
    torch.manual_seed(3)
    made = la.ExitGates(32, (2, 3, 4), width=4)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(scale)
    return la.VisualExit(made, **settings)


def live(loaded, samples, policy):
    results = evaluate_policy(*loaded, policy, samples, batch_size=4, max_new_tokens=1)
    return results, sum(result.flops for result in results)


@pytest.mark.parametrize("read_every", [1, 2])
def test_they_spend_what_they_are_asked_to_or_the_next_more_that_a_threshold_gives(loaded, samples, read_every):
    policy = gates(read_every=read_every)
    cheapest, whole = (live(loaded, samples, policy.with_threshold(t))[1] for t in (0.0, 1.0))
    assert cheapest < whole
    spends, at_cost = set(), []
    for part in (0.1, 0.35, 0.6, 0.9):
        wanted = int(cheapest + part * (whole - cheapest))
        found, reached = gates_at_cost(*loaded, samples, policy, wanted, batch_size=4)
        _, spent = live(loaded, samples, found)
        at_cost.append(reached)
        assert reached == (wanted <= spent <= 1.1 * wanted)
        spends.add(spent)
        for other in (0.3, 0.6, 0.9, 0.99, 1.01, 1.1, 1.5):
            threshold = min(1.0, found.threshold * other)
            _, theirs = live(loaded, samples, found.with_threshold(threshold))
            if reached:  # no other threshold is as near from above
                assert not wanted <= theirs < spent
            else:
                assert abs(theirs - wanted) >= abs(spent - wanted)
    assert any(at_cost)
    assert len(spends) > 2


def test_gates_that_come_no_nearer_say_so(loaded, samples):
    policy = gates()
    _, cheapest = live(loaded, samples, policy.with_threshold(0.0))
    found, reached = gates_at_cost(*loaded, samples, policy, cheapest // 2)  # even the first exit costs more
    assert (found.threshold, reached) == (0.0, False)
    results, _ = live(loaded, samples, la.ExitAt(1))
    rows = baselines_for(results, la.anatomy(loaded[0]), {"mine": policy}, {"mine": (found, reached)})
    own = {one.name: one.own_cost for one in rows if "gates" in one.name}
    assert own == {"gates alone (mine), threshold 0, the nearest": True, "gates alone (mine)": True}
    found, reached = gates_at_cost(*loaded, samples, policy, cheapest)
    assert reached
    rows = baselines_for(results, la.anatomy(loaded[0]), {"mine": policy}, {"mine": (found, reached)})
    (row,) = [one for one in rows if one.name.startswith("gates alone (mine), threshold")]
    assert not row.own_cost
    sure = gates(scale=8.0)  # every row is let go at the first gate, or not at all: nothing lies between
    whole = live(loaded, samples, sure.with_threshold(1.0))[1]
    found, reached = gates_at_cost(*loaded, samples, sure, int(0.3 * cheapest + 0.7 * whole))
    assert not reached
    assert live(loaded, samples, found)[1] in (cheapest, whole)
