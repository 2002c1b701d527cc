"""Budgets: what a schedule may cost, and the schedule of a given shape that costs as much as it may, never more.

A budget is a share of what the unpruned model spends on the same samples, in one of two units: 'flops', the counted
FLOPs of the decoder's prefill (`core.cost`), or 'tokens', the visual tokens that a layer processes on average (the mean
keep rate, the papers' 'memory cost'). It is held on average over the samples of a workload.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...core.cost import DecoderShape
from ...core.errors import DataError, SettingsError
from ...policies.ranked import count_of
from .schedule_shapes import Curve, Span

__all__ = ["Budget", "Schedule", "Unit", "Workload", "solve"]

Unit = Literal["flops", "tokens"]


@dataclass(frozen=True)
class Workload:
    """The samples that a cost is counted on: how many visual and text tokens each has.

    Raises:
        DataError: there is no sample, or one without visual tokens.
    """

    shape: DecoderShape
    visual: tuple[int, ...]
    text: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.visual or len(self.visual) != len(self.text) or min(self.visual) < 1:
            raise DataError(
                "A workload needs samples with an image: one number of visual and of text tokens each, not "
                f"{self.visual[:3]} and {self.text[:3]}."
            )

    @property
    def units(self) -> int:
        """Most visual tokens of a sample; schedules are counts of so many."""
        return max(self.visual)

    @cached_property
    def flops(self) -> NDArray[np.int64]:
        """FLOPs of each layer over all samples, by the count out of `units` that it keeps: int64 [L, units + 1]."""
        kept = self._kept
        pairs, times = np.unique(np.stack([self.visual, self.text]), axis=1, return_counts=True)
        total = np.zeros((self.shape.num_layers, self.units + 1), dtype=np.int64)
        for visual, text, count in zip(*pairs.tolist(), times.tolist(), strict=True):
            for layer, row in enumerate(total):
                row += count * self.shape.layer_flops(kept(visual) + text, layer=layer)
        return total

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """Visual tokens of each layer over all samples, by the count out of `units` that it keeps: [L, units + 1]."""
        values, times = np.unique(self.visual, return_counts=True)
        each = sum((n * self._kept(v) for v, n in zip(values.tolist(), times.tolist(), strict=True)),
                   np.zeros(self.units + 1, dtype=np.int64))  # fmt: skip
        return np.tile(each, (self.shape.num_layers, 1))

    def table(self, unit: Unit) -> NDArray[np.int64]:
        return self.flops if unit == "flops" else self.tokens

    def cost(self, counts: Sequence[int], unit: Unit) -> int:
        """What a schedule (counts out of `units`, one a layer) takes over all samples."""
        return int(self.table(unit)[np.arange(len(counts)), list(counts)].sum())

    def share(self, counts: Sequence[int], unit: Unit = "flops") -> float:
        """Cost of a schedule / that of the unpruned model."""
        return self.cost(counts, unit) / self.cost([self.units] * self.shape.num_layers, unit)

    def _kept(self, visual: int) -> NDArray[np.int64]:
        """What a sample keeps for each count out of `units`, as the policy rounds it."""
        return np.array([count_of(count / self.units, visual) for count in range(self.units + 1)], dtype=np.int64)


@dataclass(frozen=True)
class Schedule:
    """Visual tokens that each layer keeps, as counts out of `units` (the most that a sample has)."""

    counts: tuple[int, ...]  # [L]
    units: int

    @property
    def rates(self) -> tuple[float, ...]:
        """Shares of a sample's own number of visual tokens, [L]."""
        return tuple(count / self.units for count in self.counts)

    @property
    def mean_rate(self) -> float:
        return sum(self.counts) / (len(self.counts) * self.units)


@dataclass(frozen=True)
class Budget:
    """A share of the unpruned cost that schedules over `span` may take.

    Raises:
        SettingsError: it is no share, or below what the layers before `span.first` and the text cost alone.
    """

    share: float
    unit: Unit
    workload: Workload
    span: Span

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise SettingsError(f"A budget is a share of the unpruned cost, in (0, 1], not {self.share}.")
        if self.unit not in ("flops", "tokens"):
            raise SettingsError(f"A budget's unit is 'flops' or 'tokens', not {self.unit!r}.")
        if self.span.num_layers != self.workload.shape.num_layers:
            raise SettingsError(
                f"The budget is for {self.span.num_layers} layers, the workload for {self.workload.shape.num_layers}."
            )
        if not self.allows([0] * len(self.span.layers)):
            whole = "the text tokens" if self.unit == "flops" else ""
            image = f"the first {self.span.first} layers, which see the whole image"
            raise SettingsError(
                f"A budget of {self.share:.1%} of the {'prefill FLOPs' if self.unit == 'flops' else 'visual tokens'} "
                f"is too low for this model: {image}{', and ' + whole if whole else ''} take {self.least:.1%} already. "
                f"Give at least {np.ceil(1000 * self.least) / 1000:.3f}."
            )

    @cached_property
    def least(self) -> float:
        """The share that remains where everything leaves as early as it can."""
        return self.workload.share(self._whole([0] * len(self.span.layers)), self.unit)

    @cached_property
    def most(self) -> int:
        """The budget in its unit, over all samples and layers."""
        whole = self.workload.cost([self.workload.units] * self.span.num_layers, self.unit)
        return int(np.floor(self.share * float(whole) + 1e-9))

    def allows(self, counts: Sequence[int]) -> bool:
        """Whether counts of the span's layers stay within the budget."""
        return self.workload.cost(self._whole(counts), self.unit) <= self.most

    def schedule(self, counts: Sequence[int]) -> Schedule:
        return Schedule(tuple(self._whole(counts)), self.workload.units)

    def _whole(self, counts: Sequence[int]) -> list[int]:
        return [self.workload.units] * self.span.first + list(counts)


def solve(curve: Curve, budget: Budget, fill: bool = True) -> Schedule:
    """The schedule on a curve that takes the whole budget and not more.

    Args:
        curve: a shape of `search.kernels` over `budget.span`.
        fill: hand the few tokens that rounding left over to the layers that lost most by it, one by one, until no
            layer can take another within the budget: for budgets in tokens the cost is then exact to one token. False
            keeps flat runs flat: the cost is exact to one token a step.

    Raises:
        SettingsError: even the least of the curve is above the budget (a reduction that begins too late).
    """
    units = budget.workload.units

    def counts(t: float) -> list[int]:
        return [int(rate * units + 1e-9) for rate in curve(t)]

    if not budget.allows(counts(0.0)):
        least = budget.workload.share(budget.schedule(counts(0.0)).counts, budget.unit)
        raise SettingsError(
            f"This schedule costs at least {least:.1%}, above the budget of {budget.share:.1%}: it begins to drop too "
            "late. Let it begin at an earlier layer, or raise the budget."
        )
    low, high = 0.0, 1.0
    if budget.allows(counts(1.0)):
        low = 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if budget.allows(counts(middle)) else (low, middle)
    found = counts(low)
    if fill:
        found = _filled(found, [rate * units for rate in curve(low)], budget)
    return budget.schedule(found)


def _filled(counts: list[int], wanted: Sequence[float], budget: Budget) -> list[int]:
    """One token more where the budget allows it, first where rounding took most, never more than the layer before."""
    counts = list(counts)
    table = budget.workload.table(budget.unit)[budget.span.first :]
    left = budget.most - budget.workload.cost(budget.schedule(counts).counts, budget.unit)
    while True:
        open_ = [
            i for i, count in enumerate(counts)
            if count < (counts[i - 1] if i else budget.workload.units) and table[i][count + 1] - table[i][count] <= left
        ]  # fmt: skip
        if not open_:
            return counts
        best = max(open_, key=lambda i: (wanted[i] - counts[i], -i))
        left -= int(table[best][counts[best] + 1] - table[best][counts[best]])
        counts[best] += 1
