"""The bandit without a model: the published update, draws, and what it recovers where the truth is known."""

import math

import pytest
import torch

from lookaway.core.errors import DataError, SettingsError
from lookaway.search.skips.bandit import Bandit


@pytest.mark.parametrize("gate", ["sigmoid", "softmax"])
def test_one_update_by_hand(gate):
    bandit = Bandit(range(5), 2, gate, lr=0.7)
    bandit.scores = torch.tensor([0.1, -0.2, 0.3, 0.0, 0.5], dtype=torch.float64)
    values = [0.1, -0.2, 0.3, 0.0, 0.5]
    total = sum(math.exp(10 * s) for s in values)
    p = [1 / (1 + math.exp(-s)) if gate == "sigmoid" else math.exp(10 * s) / total for s in values]
    bandit.update([(0, 1), (1, 4), (0, 4)], [0.2, 0.5, 0.8])
    expected = list(values)
    for subset, reward in [((0, 1), 0.2), ((1, 4), 0.5), ((0, 4), 0.8)]:
        for i in subset:
            expected[i] += 0.7 * (reward - 0.5) * p[i] * (1 - p[i])
    assert bandit.scores.tolist() == pytest.approx(expected, abs=1e-12)
    assert bandit.scores[2:4].tolist() == [0.3, 0.0]  # of no subset


def test_it_finds_the_arms_that_harm_least():
    """Harms add up; after as many updates as the LaVIN search makes, the set is nearly the true one."""
    draw = torch.Generator().manual_seed(0)
    harms = 0.3 * torch.rand(32, generator=draw, dtype=torch.float64)
    truth = set(harms.argsort()[:12].tolist())
    bandit = Bandit(range(32), 12, "sigmoid", lr=1.0)
    for step in range(795):
        subsets = bandit.subsets(step, 5)
        bandit.update(subsets, [math.exp(-float(harms[list(subset)].sum())) for subset in subsets])
    found = bandit.best()
    assert len(truth & set(found)) >= 10
    best = float(harms[list(truth)].sum())
    random_sum = 12 * float(harms.mean())
    assert float(harms[list(found)].sum()) < best + 0.15 * (random_sum - best)


def test_draws_are_of_seed_and_step_alone():
    one, other = (Bandit(range(10), 4, seed=3) for _ in range(2))
    assert [one.draw(step) for step in range(20)] == [other.draw(step) for step in range(20)]
    assert one.subsets(5, 6) == other.subsets(5, 6)
    assert len({one.draw(step) for step in range(20)}) > 10
    assert one.draw(0) != Bandit(range(10), 4, seed=4).draw(0) or one.draw(1) != Bandit(range(10), 4, seed=4).draw(1)
    assert all(len(one.draw(step, size=2)) == 2 for step in range(5))


def test_subsets_differ_however_sharp_the_scores_are():
    bandit = Bandit(range(6), 2, "softmax")
    bandit.scores = torch.tensor([50.0, 49.0, 0, 0, 0, 0], dtype=torch.float64)
    subsets = bandit.subsets(0, 15)  # all that there are
    assert len(set(subsets)) == 15
    with pytest.raises(SettingsError, match="16 different subsets were asked for, but 2 of 6 attentions make only 15"):
        bandit.subsets(0, 16)


def test_state_goes_on_and_refuses_another_search():
    bandit = Bandit((1, 2, 3), 1)
    bandit.update([(1,), (2,)], [0.1, 0.9])
    again = Bandit((1, 2, 3), 1)
    again.load(bandit.state())
    assert torch.equal(again.scores, bandit.scores)
    assert again.best() == (2,)
    with pytest.raises(DataError, match="differs in size"):
        Bandit((1, 2, 3), 2).load(bandit.state())


@pytest.mark.parametrize(("size", "arms"), [(0, range(4)), (4, range(4)), (5, range(4)), (1, ())])
def test_sizes_that_cannot_be(size, arms):
    with pytest.raises(SettingsError):
        Bandit(arms, size)
