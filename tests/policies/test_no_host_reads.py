"""A decision waits for the GPU at most as often as docs/adding-a-method.md says: on a CPU the reads are counted."""

from collections import Counter

import pytest
import torch
from cases import CASES, LAYERS, ROWS
from test_common import view_of
from torch.utils._python_dispatch import TorchDispatchMode

READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_dim", "_unique2"}
"""Operators whose result the host must wait for: item(), bool(), int(), nonzero(), ..."""

AT_MOST = {
    "question-": 1, "fitprune": 1, "keep-schedule-counts": 1,  # how many question tokens there are, once a layout
    "autoprune": 2,                 # the same, and whether a row's budget is spent before it begins
    "text-raters": 2, "sparsevlm": 2,
    "before-then-gates": 2,
    "visual-exit": 2,               # the same, and whether any row exits here
    "chain": 2, "attention-skip-and-exit": 2, "schedule-then-exit": 2, "exit-then-schedule": 2,  # these hold one
}  # fmt: skip
"""Reads of one number that docs/adding-a-method.md names; nothing else reads."""


class CountReads(TorchDispatchMode):
    """Counts what a GPU would have to be waited for."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        by_mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in READS or by_mask:
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


def reads_of(policy, layer, monkeypatch):
    view = view_of(layer)
    counted = CountReads()
    plain = torch.Tensor.tolist

    def tolist(tensor):
        counted.found["tolist"] += 1
        return plain(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", tolist)
    with torch.no_grad(), counted:
        policy.decide(view)
    monkeypatch.undo()
    return counted.found


@pytest.mark.parametrize("name", CASES)
def test_decide_does_not_wait_for_the_gpu(name, monkeypatch):
    policy = CASES[name].make(ROWS)
    for layer in policy.layers(LAYERS, 1):
        found = reads_of(policy, layer, monkeypatch)
        allowed = max((reads for part, reads in AT_MOST.items() if part in name), default=0)
        assert sum(found.values()) <= allowed, f"{dict(found)} before layer {layer}"


def test_the_counter_counts(monkeypatch):
    class Careless:
        def decide(self, view):
            if view.layout.visual.any():
                view.hidden.sum().item()
                view.layout.visual_counts.tolist()
                view.hidden[view.layout.visual]

    assert sum(reads_of(Careless(), 1, monkeypatch).values()) == 4
