"""What `fit` chooses among: policies of one pass, and second looks made of two of them. No model runs here.

A second look costs its first pass, and for the rows that look again the layers of the dearer policy from the first
removal on: the states before it are kept (`policies/second_look.py`). Its outcome on a sample is known as soon as both
policies ran on that sample, so every pair and threshold is judged without running the model again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.cost import DecoderShape
from ...core.decision import Policy
from ...policies.second_look import SecondLook
from .candidates import Candidate
from .options import CostUnit, FitOptions
from .outcomes import Outcomes

__all__ = ["Choice", "choices", "measured"]


@dataclass(frozen=True)
class Choice:
    """A policy that could be the result, and what it does on some samples."""

    name: str
    method: str
    same: NDArray[np.bool_]  # [N]
    cost: NDArray[np.float64]  # [N]
    """Cost of each sample."""
    share: float
    """Mean cost / the full model's."""
    first: str
    """Key of its candidate, or of its first pass."""
    then: str | None = None
    """Key of its second pass."""
    threshold: float | None = None
    again: float = 0.0
    """Share of the samples that looked again."""

    @property
    def changed(self) -> int:
        return int((~self.same).sum())

    def policy(self, by_key: Mapping[str, Candidate], options: FitOptions) -> Policy:
        """The policy itself."""
        first = by_key[self.first].policy
        if self.then is None or self.threshold is None:
            return first
        return SecondLook(first, by_key[self.then].policy, self.threshold, options.confidence)


def measured(
    choice: Choice, candidates: Mapping[str, Candidate], found: Mapping[str, Outcomes], full: Outcomes,
    shape: DecoderShape, unit: CostUnit,
) -> Choice:  # fmt: skip
    """The same policy on other samples, on which its candidates ran (`found`)."""
    if choice.then is None:
        return _single(candidates[choice.first], found[choice.first], full, shape, unit)
    assert choice.threshold is not None
    first, then = candidates[choice.first], candidates[choice.then]
    return _pairs(first, then, (choice.threshold,), found[first.key], found[then.key], full, shape, unit)[0]


def choices(
    candidates: Sequence[Candidate], found: Mapping[str, Outcomes], full: Outcomes, shape: DecoderShape,
    options: FitOptions, second_look_from: int = 0,
) -> list[Choice]:  # fmt: skip
    """Every candidate that `options.methods` allows as it is, and every second look of two of them.

    Args:
        second_look_from: second looks that would run an earlier layer again are left out: `la.attach` refuses them.
    """
    made = [_single(c, found[c.key], full, shape, options.cost) for c in candidates]
    singles = {c.first: c for c in made}
    allowed = [c for c in made if c.method in (*options.methods, "own")]
    if "second-look" not in options.methods:
        return allowed
    for first in candidates:
        for then in candidates:
            cheap, dear = singles[first.key], singles[then.key]
            if cheap.share >= dear.share or dear.changed > cheap.changed or first.policy.skips(shape.num_layers):
                continue  # looking again could not help
            if then.policy.skips(shape.num_layers):
                continue
            if _kept_before(first.policy, then.policy, shape.num_layers) < second_look_from:
                continue
            allowed += _pairs(
                first, then, options.thresholds, found[first.key], found[then.key], full, shape, options.cost
            )
    return allowed


def _single(candidate: Candidate, found: Outcomes, full: Outcomes, shape: DecoderShape, unit: CostUnit) -> Choice:
    cost, whole = _cost(found, shape, unit), _cost(full, shape, unit)
    return Choice(candidate.key, candidate.method, found.same, cost, float(cost.sum() / whole.sum()), candidate.key)


def _pairs(
    first: Candidate, then: Candidate, thresholds: Sequence[float], cheap: Outcomes, dear: Outcomes, full: Outcomes,
    shape: DecoderShape, unit: CostUnit,
) -> list[Choice]:  # fmt: skip
    """The second looks of one pair of policies, one for each threshold."""
    once, whole = _cost(cheap, shape, unit), _cost(full, shape, unit).sum()
    if unit == "flops":
        start = _kept_before(first.policy, then.policy, shape.num_layers)
        twice = once + dear.flops(shape, start).astype(np.float64)
    else:  # what stays in the cache is what the last pass left
        twice = _cost(dear, shape, unit)
    found = []
    for threshold in thresholds:
        again = cheap.sure < threshold
        cost = np.where(again, twice, once)
        name = f"second-look/{first.key} then {then.key} below {threshold:g}"
        found.append(
            Choice(
                name, "second-look", np.where(again, dear.same, cheap.same), cost, float(cost.sum() / whole),
                first.key, then.key, threshold, float(again.mean()),
            )
        )  # fmt: skip
    return found


def _kept_before(first: Policy, then: Policy, num_layers: int) -> int:
    """The first layer that runs again: that before which one of the two may remove something, or the one before it,
    whose attention must be seen again (`engine/second_look.py`)."""
    layers = {*first.layers(num_layers, 1), *then.layers(num_layers, 1)}
    begins = min(layers, default=num_layers)
    return begins - 1 if begins in then.needs_attention(num_layers) else begins


def _cost(found: Outcomes, shape: DecoderShape, unit: CostUnit) -> NDArray[np.float64]:
    return (found.flops(shape) if unit == "flops" else found.kv()).astype(np.float64)
