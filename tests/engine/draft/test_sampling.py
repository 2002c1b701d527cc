"""Sampled answers have the model's own distribution: every branch of the draws is followed, with its probability."""

import itertools

import pytest
import torch
from drafted_by_hand import SUPPRESSED, forward_of
from test_twig import random_twig

import lookaway as la
from lookaway.anatomy.tiny import tiny

OPTIONS = {"do_sample": True, "top_k": 2, "temperature": 1.3, "suppress_tokens": SUPPRESSED}


class Branches:
    """In place of torch's draws: follows one branch after another, and knows how probable it is."""

    def __init__(self):
        self.script, self.at, self.probability, self.left = [], 0, 1.0, [[]]

    def choose(self, weights):
        """One of the indices of `weights`, those that are possible."""
        possible = [i for i, weight in enumerate(weights) if weight > 0]
        if self.at == len(self.script):
            self.left += [[*self.script, other] for other in possible[1:]]
            self.script.append(possible[0])
        chosen = self.script[self.at]
        self.at += 1
        self.probability *= float(weights[chosen])
        return chosen

    def multinomial(self, shares, num_samples):
        assert num_samples == 1
        return torch.tensor([[self.choose(row)] for row in (shares / shares.sum(-1, keepdim=True)).tolist()])

    def rand_like(self, ratio):
        """Below `ratio` with that probability: 0, else 1 or more."""
        limits = [min(float(r), 1.0) for r in ratio]
        return torch.tensor([0.0 if self.choose([limit, 1 - limit]) == 0 else 2.0 for limit in limits])

    def __iter__(self):
        while self.left:
            self.script, self.at, self.probability = self.left.pop(), 0, 1.0
            yield


def by_hand(model, inputs, policy, length):
    """{answer: probability}, by whole forwards without a cache."""
    prompt = inputs["input_ids"]
    tails = {(): 1.0}
    for _ in range(length):
        longer = {}
        for tail, probability in tails.items():
            ids = torch.cat([prompt, torch.tensor([tail], dtype=torch.long)], 1)
            with la.attach(model, policy):
                logits = forward_of(model, inputs, ids).logits[0, -1] / OPTIONS["temperature"]
            logits[SUPPRESSED] = -torch.inf
            best = logits.topk(OPTIONS["top_k"])
            for token, share in zip(best.indices.tolist(), best.values.softmax(-1).tolist(), strict=True):
                longer[(*tail, token)] = probability * share
        tails = longer
    return tails


@pytest.mark.parametrize(("by", "confidence"), [("early exit", 0.0), ("early exit", 0.8), ("twig", 0.0)])
def test_the_distribution_is_the_models_own(monkeypatch, by, confidence):
    model, inputs = tiny("llava").model, tiny("llava").inputs()
    policy = la.ExitAt(2)
    expected = by_hand(model, inputs, policy, 4)
    twig = la.Twig(start=2, depth=1, weights=random_twig(model))
    found, accepted, lengths = dict.fromkeys(expected, 0.0), 0, set()
    branches = Branches()
    monkeypatch.setattr(torch, "multinomial", branches.multinomial)
    monkeypatch.setattr(torch, "rand_like", branches.rand_like)
    with la.attach(model, policy, draft=la.Draft(2 if by == "early exit" else twig, 2, confidence)) as run:
        for _ in branches:
            ids = model.generate(**inputs, **OPTIONS, max_new_tokens=4)
            found[tuple(ids[0, -4:].tolist())] += branches.probability
            accepted += run.trace.accepted
            lengths.add((run.trace.drafted, run.trace.checks))
    assert len(expected) == 16
    assert accepted > 0
    assert len(lengths) > 1  # drafts of several lengths were among the branches
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    for answer in expected:
        assert found[answer] == pytest.approx(expected[answer], abs=1e-5)


def test_the_branches_are_all_of_them():
    """The judge itself: three draws of two have eight branches, whose probabilities add up."""
    branches, seen = Branches(), {}
    for _ in branches:
        drawn = tuple(branches.choose([0.25, 0.0, 0.75]) for _ in range(3))
        seen[drawn] = branches.probability
    assert set(seen) == set(itertools.product((0, 2), repeat=3))
    assert sum(seen.values()) == pytest.approx(1)
