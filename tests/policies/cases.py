"""THE table: a policy is one row here and gets every test of test_common.py. Rows make a fresh policy each time."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

import lookaway as la
from lookaway.core.decision import Policy
from lookaway.policies.ranking import RANKINGS

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


def ranked(name):
    return lambda rows: la.KeepSchedule([1.0, 0.6, 0.6, 0.2], ranking=name)


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
    "visual-exit-groups": Case(lambda rows: la.VisualExit(gates(), threshold=0.4, read_every=2)),
    "visual-exit-never": Case(lambda rows: la.VisualExit(gates(), threshold=None), exits=False),
    "attention-skip": Case(lambda rows: la.AttentionSkip((0, 2)), exits=False),
    "attention-skip-adapters": Case(lambda rows: la.AttentionSkip((1, 2), adapters((1, 2))), exits=False),
    "attention-skip-and-exit": Case(
        lambda rows: la.chain(
            la.AttentionSkip((0, 2), adapters((0, 2), pool="all", once=False)), la.VisualExit(gates())
        )
    ),
    "chain": Case(lambda rows: la.chain(la.ExitAt([None, 3, 2, None][:rows]), la.VisualExit(gates(4)))),
    "keep-schedule": Case(lambda rows: la.KeepSchedule([1.0, 0.8, 0.4, 0.4])),
    "keep-schedule-counts": Case(lambda rows: la.KeepSchedule([1.0, 1.0, 9, 2], ranking="question-mean")),
    "keep-schedule-to-none": Case(lambda rows: la.KeepSchedule([1.0, 0.5, 0.25, 0.0], ranking="key-norm")),
    "keep-schedule-all": Case(lambda rows: la.KeepSchedule([1.0] * LAYERS), exits=False),
    "schedule-then-exit": Case(
        lambda rows: la.chain(
            la.KeepSchedule([1.0, 0.7, 0.7, 0.3], ranking="question-head-max"), la.ExitAt([2, None, 3, None][:rows])
        )
    ),
    "exit-then-schedule": Case(
        lambda rows: la.chain(la.VisualExit(gates(4)), la.KeepSchedule.from_steps({1: 0.6, 3: 0.2}, LAYERS))
    ),
    **{f"ranking-{name}": Case(ranked(name)) for name in RANKINGS},
    "second-look": Case(
        lambda rows: la.SecondLook(
            la.KeepSchedule([1.0, 0.2, 0.2, 0.2]), la.KeepSchedule([1.0, 0.7, 0.7, 0.7]), threshold=0.2
        )
    ),
    "twig": Case(lambda rows: la.Twig(start=1, depth=2, keep=0.5)),
    "twig-final": Case(lambda rows: la.Twig(start=2, depth=1, keep=4, final=3)),
    "twig-in-chain": Case(lambda rows: la.chain(la.CDPruner(0.8), la.Twig(start=1, depth=2, keep=0.4))),
    "twig-renumbered-in-chain": Case(
        lambda rows: la.chain(la.Downsample(2, positions="renumber"), la.Twig(start=2, depth=1, keep=2))
    ),
    "twig-then-visual-exit": Case(lambda rows: la.chain(la.Twig(start=2, depth=1, keep=0.6), la.VisualExit(gates(4)))),
    "twig-second-look": Case(
        lambda rows: la.SecondLook(la.Twig(start=1, depth=1, keep=2), la.KeepSchedule([1.0, 0.7, 0.7, 0.7]), 0.5)
    ),
    "fastv": Case(lambda rows: la.FastV()),
    "vtw": Case(lambda rows: la.VTW(2)),
    "pyramiddrop": Case(lambda rows: la.PyramidDrop()),
    "pyramiddrop-steps": Case(lambda rows: la.PyramidDrop(ratio=0.3, steps=(1, 3))),
    "fitprune": Case(lambda rows: la.FitPrune([1.0, 0.9, 0.5, 0.1])),
    "sparsevlm": Case(lambda rows: la.SparseVLM({1: 0.75, 3: 0.25}, groups=0.5)),
    "sparsevlm-adaptive": Case(lambda rows: la.SparseVLM({1: 1.0, 2: 0.9, 3: 0.25}, scale=0.8, recycle=0.5)),
    "sparsevlm-0.1": Case(lambda rows: la.SparseVLM({1: 0.75, 3: 0.25}, recycle=0.0)),
    "dart": Case(lambda rows: la.DART(layer=1, keep=0.5, pivots=3, text_pivots=2)),
    "dart-0.1": Case(lambda rows: la.DART(layer=1, keep=0.5, pivots=3, text_pivots=0, rule="nearest")),
    "dart-before": Case(lambda rows: la.DART(layer=0, keep=0.5)),
    "divprune": Case(lambda rows: la.DivPrune(0.3)),
    "divprune-inside": Case(lambda rows: la.DivPrune(0.3, layer=1)),
    "cdpruner": Case(lambda rows: la.CDPruner(0.3)),
    "cdpruner-count-inside": Case(lambda rows: la.CDPruner(4, layer=2)),
    "visionzip": Case(lambda rows: la.VisionZip(0.5, dominant=0.6)),
    "visionzip-dominant-only": Case(lambda rows: la.VisionZip(5, dominant=1.0)),
    "downsample": Case(lambda rows: la.Downsample(2)),
    "downsample-uneven": Case(lambda rows: la.Downsample(3)),
    "downsample-not": Case(lambda rows: la.Downsample(1), exits=False),
    "autoprune": Case(lambda rows: la.AutoPrune(budget=0.6, layer=1)),
    "autoprune-no-merge": Case(lambda rows: la.AutoPrune(budget=0.7, layer=2, steepness=2.0, recycle=0.0)),
    "autoprune-in-chain": Case(lambda rows: la.chain(la.DivPrune(0.8), la.AutoPrune(budget=0.5, layer=1, gamma=2.0))),
    "shortv": Case(lambda rows: la.ShortV((0, 2, 3)), exits=False),
    "shortv-all": Case(lambda rows: la.ShortV(range(LAYERS)), exits=False),
    "shortv-then-exit": Case(lambda rows: la.chain(la.ShortV((1, 2)), la.ExitAt([2, None, 3, None][:rows]))),
    "shortv-before-and-visual-exit": Case(
        lambda rows: la.chain(la.CDPruner(0.5), la.ShortV((0, 3)), la.VisualExit(gates(4)))
    ),
    "shortv-and-skip": Case(
        lambda rows: la.chain(la.ShortV((1,)), la.AttentionSkip((2,), adapters((2,)))), exits=False
    ),
    "random-keep": Case(lambda rows: la.RandomKeep(0.5, seed=5)),
    "random-keep-before": Case(lambda rows: la.RandomKeep(0.5, layer=0, seed=5)),
    "uniform-keep": Case(lambda rows: la.UniformKeep(7)),
    "uniform-keep-before": Case(lambda rows: la.UniformKeep(0.4, layer=0)),
    "uniform-keep-all-before": Case(lambda rows: la.UniformKeep(1.0, layer=0), exits=False),
    "cdpruner-renumber": Case(lambda rows: la.CDPruner(0.4, positions="renumber")),
    "visionzip-renumber": Case(lambda rows: la.VisionZip(0.4, positions="renumber")),
    "downsample-renumber-visual-exit": Case(
        lambda rows: la.chain(la.Downsample(2, positions="renumber"), la.VisualExit(gates(4)))
    ),
    "before-then-gates": Case(lambda rows: la.chain(la.CDPruner(0.5), la.VisualExit(gates(4)))),
    "merge-then-schedule": Case(lambda rows: la.chain(la.VisionZip(0.7), la.KeepSchedule([1.0, 1.0, 0.5, 0.2]))),
    "downsample-then-divprune": Case(lambda rows: la.chain(la.Downsample(2), la.DivPrune(0.2))),
    "schedule-from-the-start": Case(lambda rows: la.KeepSchedule([0.8, 0.8, 0.4, 0.1], ranking="diversity")),
}
