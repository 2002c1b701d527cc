"""Evenly spaced tokens: a coarser picture, the simplest baseline."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.registry import register
from ..ranked import Keep, OneStepPolicy
from ..ranking import RANKINGS, Ranking

__all__ = ["UniformKeep"]


@register("uniform-keep")
@dataclass(frozen=True)
class UniformKeep(OneStepPolicy):
    """Before one layer, all but evenly spaced visual tokens leave: a coarser picture.

    For uniform tokens at another policy's schedule: `KeepSchedule(policy.entries(num_layers), ranking="uniform")`.
    """

    keep: Keep = 0.5
    layer: int = 2

    def order(self) -> Ranking:
        return RANKINGS["uniform"]
