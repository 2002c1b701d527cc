"""CDPruner (arXiv 2506.10967): the subset stays that is most diverse among what the instruction asks about."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.registry import register
from ..ranked import Keep, RankedPolicy, check_some, one_step
from ..ranking import RANKINGS, Ranking

__all__ = ["CDPruner"]


@register("cdpruner")
@dataclass(frozen=True)
class CDPruner(RankedPolicy):
    """Before the decoder, tokens stay that are diverse and like the question: a conditional DPP (CDPruner).

    The likeness to the instruction is that of the projector's outputs to the embeddings of the question's words: the
    form for models whose vision tower has no text tower beside it. A LLaVA checkpoint does not hold CLIP's text tower
    either, which the paper loads besides.
    """

    keep: Keep
    """What stays: a share of the row's visual tokens (float) or a count (int)."""
    layer: int = 0
    """Before it tokens leave; 0: they never enter the decoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_some(self.keep, "CDPruner")

    def entries(self, num_layers: int) -> tuple[Keep, ...]:
        return one_step(self.layer, self.keep, num_layers, "CDPruner")

    def order(self) -> Ranking:
        return RANKINGS["conditional-diversity"]
