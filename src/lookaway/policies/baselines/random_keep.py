"""Random tokens: what a ranking is worth must show beside this."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.registry import register
from ..ranked import Keep, OneStepPolicy
from ..ranking import RANKINGS, Ranking

__all__ = ["RandomKeep"]


@register("random-keep")
@dataclass(frozen=True)
class RandomKeep(OneStepPolicy):
    """Before one layer, random visual tokens leave; the same prompt and seed always lose the same.

    For random tokens at another policy's schedule: `KeepSchedule(policy.entries(num_layers), ranking="random")`.
    """

    keep: Keep = 0.5
    layer: int = 2
    seed: int = 0

    def order(self) -> Ranking:
        return RANKINGS["random"]

    def wanted_seed(self) -> int:
        return self.seed
