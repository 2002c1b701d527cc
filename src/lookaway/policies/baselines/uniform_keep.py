"""Evenly spaced tokens: a coarser picture, the simplest baseline."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.registry import register
from ..ranked import Keep, RankedPolicy, check_entries, one_step
from ..ranking import RANKINGS, Ranking

__all__ = ["UniformKeep"]


@register("uniform-keep")
@dataclass(frozen=True)
class UniformKeep(RankedPolicy):
    """Before one layer, all but evenly spaced visual tokens leave: a coarser picture.

    For uniform tokens at another policy's schedule: `KeepSchedule(policy.entries(num_layers), ranking="uniform")`.
    """

    keep: Keep = 0.5
    """What stays."""
    layer: int = 2
    """Before it tokens leave."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_entries([self.keep], "UniformKeep")

    def entries(self, num_layers: int) -> tuple[Keep, ...]:
        return one_step(self.layer, self.keep, num_layers, "UniformKeep")

    def order(self) -> Ranking:
        return RANKINGS["uniform"]
