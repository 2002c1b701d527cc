"""THE table: a policy is one row here and gets every test of test_common.py. Rows make a fresh policy each time."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

import lookaway as la
from lookaway.core.decision import Policy

HIDDEN, LAYERS = 32, 4  # the sizes of anatomy.tiny
ROWS = 4  # rows of its padded batches


@dataclass(frozen=True)
class Case:
    make: Callable[[int], Policy]
    """Takes the number of rows of the batch."""
    exits: bool = True
    """On some tiny model it really drops something."""


def gates(seed=0, layers=(1, 2, 3), **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return la.ExitGates(HIDDEN, layers, **{"width": 8, **settings})


def adapters(layers, seed=0, **shape):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return la.SkipAdapters(HIDDEN, layers, la.AdapterShape(width=4, start="random", **shape)).eval()


CASES = {
    "keep-all": Case(lambda rows: la.KeepAll(), exits=False),
    "exit-at-1": Case(lambda rows: la.ExitAt(1)),
    "exit-at-3": Case(lambda rows: la.ExitAt(3)),
    "exit-at-never": Case(lambda rows: la.ExitAt(LAYERS), exits=False),
    "exit-at-rows": Case(lambda rows: la.ExitAt([2, None, 3, 1][:rows])),
    "random-exit": Case(lambda rows: la.RandomExit((1, 2, 3, 4), (0.3, 0.3, 0.2, 0.2), seed=3)),
    "visual-exit": Case(lambda rows: la.VisualExit(gates())),
    "visual-exit-shared": Case(lambda rows: la.VisualExit(gates(1, shared=True, norm="layer"), threshold=0.4)),
    "visual-exit-published": Case(
        lambda rows: la.VisualExit(gates(2, width=64, norm="none", two_way=True), threshold=[0.5, 0.5, 0.1])
    ),
    "visual-exit-late": Case(lambda rows: la.VisualExit(gates(), threshold=0.2, min_layer=2, layers=(1, 3))),
    "visual-exit-never": Case(lambda rows: la.VisualExit(gates(), threshold=None), exits=False),
    "attention-skip": Case(lambda rows: la.AttentionSkip((0, 2)), exits=False),
    "attention-skip-adapters": Case(lambda rows: la.AttentionSkip((1, 2), adapters((1, 2))), exits=False),
    "attention-skip-and-exit": Case(
        lambda rows: la.chain(
            la.AttentionSkip((0, 2), adapters((0, 2), pool="all", once=False)), la.VisualExit(gates())
        )
    ),
    "chain": Case(lambda rows: la.chain(la.ExitAt([None, 3, 2, None][:rows]), la.VisualExit(gates(4)))),
}
