"""DivPrune (arXiv 2503.02175): of the visual tokens, the most diverse subset stays."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.registry import register
from ..ranked import OneStepPolicy
from ..ranking import RANKINGS, Ranking

__all__ = ["DivPrune"]


@register("divprune")
@dataclass(frozen=True)
class DivPrune(OneStepPolicy):
    """Before the decoder, the visual tokens that are least diverse leave (greedy max-min by cosine; DivPrune).

    As published: chosen from the projector's outputs. `layer=1` and later choose by the states there.
    """

    layer: int = 0
    """Before it tokens leave; 0: they never enter the decoder."""

    def order(self) -> Ranking:
        return RANKINGS["diversity"]
