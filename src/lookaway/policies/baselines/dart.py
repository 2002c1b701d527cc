"""DART (arXiv 2502.11494): tokens that double a few pivots leave, whatever their attention."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from ...core.errors import SettingsError
from ...core.registry import register
from ..ranked import Keep, RankedPolicy, check_entries, one_step
from ..ranking import Ranking
from ..ranking.states import duplication_to

__all__ = ["DART"]


@register("dart")
@dataclass(frozen=True)
class DART(RankedPolicy):
    """Before one layer, the tokens most like a few pivot tokens leave: duplication, not importance (DART).

    Pivots are the visual tokens of longest key and stay; of the others those stay whose largest cosine to a pivot is
    least. The paper takes text tokens as pivots too and lets each pivot choose in turn; both are left out here.
    """

    layer: int = 2
    """Before it tokens leave."""
    keep: Keep = 0.222
    """What stays, pivots included; 0.222 is 128 of LLaVA-1.5's 576."""
    pivots: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_entries([self.keep], "DART")
        if self.pivots < 1:
            raise SettingsError(f"DART needs at least one pivot, not {self.pivots}.")

    def entries(self, num_layers: int) -> tuple[Keep, ...]:
        return one_step(self.layer, self.keep, num_layers, "DART")

    def order(self) -> Ranking:
        score = partial(duplication_to, pivots=self.pivots)
        return Ranking("duplication", "tokens least like a few pivots stay", score, looks=True)
