"""Random tokens: what a ranking is worth must show beside this."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.registry import register
from ..ranked import Keep, RankedPolicy, check_entries, one_step
from ..ranking import RANKINGS, Ranking

__all__ = ["RandomKeep"]


@register("random-keep")
@dataclass(frozen=True)
class RandomKeep(RankedPolicy):
    """Before one layer, random visual tokens leave; the same prompt and seed always lose the same.

    For random tokens at another policy's schedule: `KeepSchedule(policy.entries(num_layers), ranking="random")`.
    """

    keep: Keep = 0.5
    """What stays."""
    layer: int = 2
    """Before it tokens leave."""
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_entries([self.keep], "RandomKeep")

    def entries(self, num_layers: int) -> tuple[Keep, ...]:
        return one_step(self.layer, self.keep, num_layers, "RandomKeep")

    def order(self) -> Ranking:
        return RANKINGS["random"]

    def wanted_seed(self) -> int:
        return self.seed
