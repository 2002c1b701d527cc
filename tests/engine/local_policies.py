"""Small policies of the tests' own, so that the engine is judged without the methods."""

import torch

from lookaway.core.decision import KEEP, Decision, Policy


class Keep(Policy):
    name = "keep"

    def layers(self, num_layers, first_prunable):
        return ()

    def decide(self, view):
        raise AssertionError("is never asked")


class KeepButAsk(Policy):
    """Is asked at every layer and drops nothing."""

    name = "keep-but-ask"

    def __init__(self):
        self.asked = []

    def layers(self, num_layers, first_prunable):
        return tuple(range(first_prunable, num_layers))

    def decide(self, view):
        self.asked.append(view.layer)
        return KEEP if view.layer % 2 else Decision(keep=torch.ones_like(view.layout.visual))


class Exit(Policy):
    """All visual tokens leave before `at`: a layer, or one a row (None = never)."""

    name = "exit"

    def __init__(self, at):
        self.at = at

    def layers(self, num_layers, first_prunable):
        entries = self.at if isinstance(self.at, list) else [self.at]
        return tuple(sorted({k for k in entries if k is not None}))

    def decide(self, view):
        rows = len(view.hidden)
        entries = self.at if isinstance(self.at, list) else [self.at] * rows
        leaves = torch.tensor([entry == view.layer for entry in entries])
        return Decision.drop_visual(view, leaves, chosen=leaves.float())


class Thin(Policy):
    """Every second and then every third visual token leaves; the rows' states decide which, so counts differ."""

    name = "thin"

    def __init__(self, layers=(1, 3)):
        self.at = layers

    def layers(self, num_layers, first_prunable):
        return self.at

    def decide(self, view):
        norm = view.hidden.norm(dim=-1).masked_fill(~view.layout.visual, 0)
        mean = norm.sum(1, keepdim=True) / view.layout.visual_counts[:, None].clamp(min=1)
        return Decision(keep=~view.layout.visual | (norm > mean))


class Attentive(Policy):
    """Visual tokens that the last prompt token looks at less than at the mean one leave; counts differ by row."""

    name = "attentive"

    def __init__(self, layers=(1, 3)):
        self.at = layers
        self.seen = {}

    def layers(self, num_layers, first_prunable):
        return self.at

    def needs_attention(self, num_layers):
        return frozenset(self.at)

    def decide(self, view):
        self.seen[view.layer] = view
        slots = torch.arange(view.hidden.shape[1])
        last = (slots * view.layout.text).amax(1, keepdim=True)
        looks = view.attention_inputs.weights(last)[:, :, 0].mean(1) * view.layout.visual
        mean = looks.sum(1, keepdim=True) / view.layout.visual_counts[:, None].clamp(min=1)
        return Decision(keep=~view.layout.visual | (looks > mean))


class Merge(Policy):
    """Of two visual tokens beside each other the first leaves, and the second becomes their mean; again later."""

    name = "merge"

    def __init__(self, layers=(0, 2)):
        self.at = layers

    def layers(self, num_layers, first_prunable):
        return self.at

    def decide(self, view):
        visual = view.layout.visual
        odd = (visual.cumsum(1) % 2 == 1) & visual
        leaves = odd[:, :-1] & visual[:, 1:]
        leaves = torch.nn.functional.pad(leaves, (0, 1))
        values = (view.hidden + view.hidden.roll(1, 1)) / 2
        return Decision(keep=~leaves, values=torch.where(leaves.roll(1, 1)[:, :, None], values, view.hidden))


POLICIES = {
    "keep": Keep,
    "keep-but-ask": KeepButAsk,
    "exit-1": lambda: Exit(1),
    "exit-3": lambda: Exit(3),
    "exit-rows": lambda: Exit([2, None, 1, 3]),
    "exit-rows-late": lambda: Exit([3, 1, None, 1]),
    "thin": Thin,
    "attentive": Attentive,
    "before": lambda: Thin((0,)),
    "before-and-inside": lambda: Thin((0, 3)),
    "before-rows": lambda: Exit([0, None, 3, 1]),
    "merge": Merge,
}


def policy_for(name, rows):
    """A fresh policy; per-row lists are cut to the batch."""
    policy = POLICIES[name]()
    if isinstance(policy, Exit) and isinstance(policy.at, list):
        policy.at = policy.at[:rows]
    return policy
