"""CDPruner (arXiv 2506.10967): the subset stays that is most diverse among what the instruction asks about."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.registry import register
from ..ranked import OneStepPolicy, check_some
from ..ranking import RANKINGS, Ranking

__all__ = ["CDPruner"]


@register("cdpruner")
@dataclass(frozen=True)
class CDPruner(OneStepPolicy):
    """Before the decoder, tokens stay that are diverse and like the question: a conditional DPP (CDPruner).

    The likeness to the instruction is that of the projector's outputs to the embeddings of the question's words: the
    form for models whose vision tower has no text tower beside it. A LLaVA checkpoint does not hold CLIP's text tower
    either, which the paper loads besides.
    """

    layer: int = 0
    """Before it tokens leave; 0: they never enter the decoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_some(self.keep, "CDPruner")

    def order(self) -> Ranking:
        return RANKINGS["conditional-diversity"]
