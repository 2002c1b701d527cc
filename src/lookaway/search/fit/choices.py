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
from ...core.errors import SettingsError
from ...policies.second_look import SecondLook
from .candidates import Candidate, exact, first_layer, one_pass_only
from .options import CostUnit, FitOptions
from .outcomes import Outcomes
from .seconds import Seconds

__all__ = ["Choice", "choices", "measured", "pairs", "single"]


@dataclass(frozen=True)
class Choice:
    """A policy that could be the result, and what it does on some samples."""

    name: str
    method: str
    same: NDArray[np.bool_]  # [N]
    cost: NDArray[np.float64]  # [N]
    """Cost of each sample: FLOPs, or KV-cache entries."""
    share: float
    """What is minimised: mean cost / the full model's; of seconds, once they are measured, the same."""
    first: str
    """Key of its candidate, or of its first pass."""
    then: str | None = None
    """Key of its second pass."""
    threshold: float | None = None
    again: float = 0.0
    """Share of the samples that looked again."""
    loss: NDArray[np.float64] | None = None  # [N]
    """How far each sample's score falls, where a score is asked for."""
    seconds: Seconds | None = None
    """What was measured, where it was."""

    @property
    def changed(self) -> int:
        return int((~self.same).sum())

    @property
    def keys(self) -> tuple[str, ...]:
        """Its candidates."""
        return (self.first,) if self.then is None else (self.first, self.then)

    def policy(self, by_key: Mapping[str, Candidate], options: FitOptions) -> Policy:
        """The policy itself."""
        first = by_key[self.first].policy
        if self.then is None or self.threshold is None:
            return first
        return SecondLook(first, by_key[self.then].policy, self.threshold, options.confidence)


def unit_of(options: FitOptions) -> CostUnit:
    """What is counted for each sample: where seconds are minimised, FLOPs, until they are measured."""
    return "kv" if options.minimised == "kv" else "flops"


def measured(
    choice: Choice, candidates: Mapping[str, Candidate], found: Mapping[str, Outcomes], full: Outcomes,
    shape: DecoderShape, options: FitOptions,
) -> Choice:  # fmt: skip
    """The same policy on other samples, on which its candidates ran (`found`)."""
    if choice.then is None:
        return single(candidates[choice.first], found[choice.first], full, shape, options)
    assert choice.threshold is not None
    first, then = candidates[choice.first], candidates[choice.then]
    return pairs(first, then, (choice.threshold,), found[first.key], found[then.key], full, shape, options)[0]


def choices(
    candidates: Sequence[Candidate], found: Mapping[str, Outcomes], full: Outcomes, shape: DecoderShape,
    options: FitOptions, second_look_from: int = 0,
) -> list[Choice]:  # fmt: skip
    """Every candidate that `options.methods` allows as it is, and every second look of two of them.

    Args:
        found: of all candidates, on the same samples as `full`.
        second_look_from: second looks that would run an earlier layer again are left out: `la.attach` refuses them.
    """
    made = {c.key: single(c, found[c.key], full, shape, options) for c in candidates}
    allowed = [choice for choice in made.values() if choice.method in (*options.methods, "own")]
    for first in candidates if "second-look" in options.methods else ():
        for then in candidates:
            if may_follow(first, then, made[first.key], made[then.key], shape.num_layers, second_look_from):
                allowed += pairs(
                    first, then, options.thresholds, found[first.key], found[then.key], full, shape, options
                )
    return allowed


def may_follow(
    first: Candidate, then: Candidate, cheap: Choice, dear: Choice, num_layers: int, second_look_from: int
) -> bool:
    """A second look of the two can be attached, and could help on these samples."""
    if cheap.share >= dear.share or dear.changed > cheap.changed:
        return False
    if any(one_pass_only(c.policy, num_layers) for c in (first, then)):
        return False
    try:
        SecondLook(first.policy, then.policy)
    except SettingsError:  # it says itself which two it cannot join
        return False
    return _kept_before(first.policy, then.policy, num_layers) >= second_look_from


def single(
    candidate: Candidate, found: Outcomes, full: Outcomes, shape: DecoderShape, options: FitOptions
) -> Choice:  # fmt: skip
    """A candidate as it is."""
    unit = unit_of(options)
    cost, whole = _cost(found, shape, unit), _cost(full, shape, unit)
    share = float(cost.sum() / whole.sum())
    return Choice(candidate.key, candidate.method, found.same, cost, share, candidate.key, loss=_loss(found, options))


def pairs(
    first: Candidate, then: Candidate, thresholds: Sequence[float], cheap: Outcomes, dear: Outcomes, full: Outcomes,
    shape: DecoderShape, options: FitOptions,
) -> list[Choice]:  # fmt: skip
    """The second looks of one pair of policies, one for each threshold."""
    unit = unit_of(options)
    once, whole = _cost(cheap, shape, unit), _cost(full, shape, unit).sum()
    if unit == "flops":
        start = _kept_before(first.policy, then.policy, shape.num_layers)
        twice = once + dear.flops(shape, start).astype(np.float64)
    else:  # what stays in the cache is what the last pass left
        twice = _cost(dear, shape, unit)
    found = []
    for threshold in thresholds:
        again = unsure(cheap.sure, threshold)
        cost = np.where(again, twice, once)
        name = f"second-look/{first.key} then {then.key} below {exact(threshold)}"
        loss = np.where(again, dear.loss, cheap.loss) if options.metric == "score" else None
        found.append(
            Choice(
                name, "second-look", np.where(again, dear.same, cheap.same), cost, float(cost.sum() / whole),
                first.key, then.key, threshold, float(again.mean()), loss,
            )
        )  # fmt: skip
    return found


def unsure(sure: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Which samples look again, bool [N]: as the attached policy decides it, in single precision."""
    return ~(sure.astype(np.float32) >= np.float32(threshold))


def _kept_before(first: Policy, then: Policy, num_layers: int) -> int:
    """The first layer that runs again: that before which one of the two may remove something, or the one before it,
    whose attention must be seen again (`engine/second_look.py`)."""
    begins = min(first_layer(first, num_layers), first_layer(then, num_layers))
    return begins - 1 if begins in then.needs_attention(num_layers) else begins


def _loss(found: Outcomes, options: FitOptions) -> NDArray[np.float64] | None:
    return found.loss if options.metric == "score" else None


def _cost(found: Outcomes, shape: DecoderShape, unit: CostUnit) -> NDArray[np.float64]:
    return (found.flops(shape) if unit == "flops" else found.kv(shape)).astype(np.float64)
