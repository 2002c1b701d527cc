"""FastV (arXiv 2403.06764): before one early layer, the visual tokens that got the least attention leave."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.errors import SettingsError
from ...core.registry import register
from ..ranked import Keep, RankedPolicy, one_step
from ..ranking import Ranking, ranking_named

__all__ = ["FastV"]


@register("fastv")
@dataclass(frozen=True)
class FastV(RankedPolicy):
    """Before layer K, the share R of the visual tokens with the least attention leaves (FastV).

    Published: K = 2, R = 0.5, original position ids. The paper speaks of the attention that a token gets from all
    others, its re-runs rank by the last prompt token's; here it is the last token's, mean over heads, in layer K - 1,
    from one query row instead of an S x S map.
    """

    layer: int = 2
    """K: so many layers see all tokens."""
    ratio: float = 0.5
    """R: share of the visual tokens that leaves."""
    ranking: str = "last-token"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.ratio < 1:
            raise SettingsError(
                f"FastV's ratio is the share that leaves, from 0.0 up to but not 1.0, not {self.ratio!r}. "
                "la.ExitAt(layer) removes all."
            )
        ranking_named(self.ranking)

    def entries(self, num_layers: int) -> tuple[Keep, ...]:
        return one_step(self.layer, 1.0 - float(self.ratio), num_layers, "FastV")

    def order(self) -> Ranking:
        return ranking_named(self.ranking)
