"""SparseVLM's adaptive number and its recycling, against slow loops and hand-computed cases."""

import pytest
import torch
from test_common import view_of

import lookaway as la
from lookaway.policies.baselines.clusters import density_peaks
from lookaway.policies.baselines.sparsevlm import adaptive_counts
from lookaway.policies.ranking import RANKINGS, Wanted


def test_the_number_follows_the_rank_of_the_raters_map():
    weights = torch.tensor([[[0.5, 0.2, 0.3, 0, 9], [1, 0.4, 0.6, 0, 1]], [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0.0]]])
    visual = torch.tensor([[True] * 4 + [False]] * 2)
    valid = torch.ones(2, 2, dtype=torch.bool)
    assert adaptive_counts(weights, valid, visual, 1.0).tolist() == [1, 2]  # the first two rows are multiples
    assert adaptive_counts(weights, valid, visual, 0.5).tolist() == [2, 3]  # 4 - round(.5 * 3), 4 - .5 * 2
    assert adaptive_counts(weights, valid, visual, 9.0).tolist() == [1, 1]


def test_density_peaks_find_two_heaps():
    heap = torch.tensor([0.0, 0.1, -0.1, 0.2, -0.2, 0.05])
    points = torch.cat([heap, heap + 9, torch.tensor([5e3])])[None, :, None]
    real = torch.ones(1, 13, dtype=torch.bool)
    real[0, 12] = False
    center, own = density_peaks(points, real, torch.tensor([2]))
    first, second = {int(place) for place in own[0, :6]}, {int(place) for place in own[0, 6:12]}
    assert len(first) == len(second) == 1
    assert first != second
    assert set(center[0].nonzero().flatten().tolist()) == first | second


@pytest.mark.parametrize("recycle", [0.5, 1.0])
def test_the_best_of_those_that_leave_become_means_within_the_budget(recycle):
    view = view_of(2)
    policy = la.SparseVLM({2: 3}, recycle=recycle, groups=0.5)
    decision = policy.decide(view)
    scores = RANKINGS["text-raters"].score(view, Wanted((3,) * 4))
    for row in (0, 1, 3):
        slots = view.layout.visual[row].nonzero().flatten().tolist()
        order = sorted(slots, key=lambda s: -float(scores[row, s]))
        merged = round(recycle * 3)  # of six tokens three leave
        centers = -(-merged // 2)
        best, mixed = order[: 3 - centers], order[3 - centers : 3 - centers + merged]
        kept = [s for s in slots if decision.keep[row, s]]
        assert len(kept) == 3
        assert set(best) < set(kept) <= set(best + mixed)
        for slot in best:
            assert torch.equal(decision.values[row, slot], view.hidden[row, slot])
        new = [s for s in kept if s not in best]
        total = sum(view.hidden[row, s] for s in mixed)
        if len(new) == 1:
            torch.testing.assert_close(decision.values[row, new[0]], total / merged)


def test_what_0_1_saved_merges_nothing():
    loaded = la.SparseVLM.from_config({"positions": "original", "steps": {"1": 0.75}}, {})
    assert loaded == la.SparseVLM({1: 0.75}, recycle=0.0)
