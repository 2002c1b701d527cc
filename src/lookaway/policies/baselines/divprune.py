"""DivPrune (arXiv 2503.02175): of the visual tokens, the most diverse subset stays."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.registry import register
from ..ranked import Keep, RankedPolicy, check_entries, one_step
from ..ranking import RANKINGS, Ranking

__all__ = ["DivPrune"]


@register("divprune")
@dataclass(frozen=True)
class DivPrune(RankedPolicy):
    """Before one layer, the visual tokens that are least diverse leave (greedy max-min by cosine; DivPrune).

    Published: chosen from the projector's outputs, before the decoder. Here the earliest point is before layer 1: layer
    0 always sees the whole prompt (transformers takes positions and masks from its cache), so states have passed one
    layer, that layer's cost is not saved, and position ids stay the original ones.
    """

    keep: Keep
    """What stays."""
    layer: int = 1
    """Before it tokens leave."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_entries([self.keep], "DivPrune")

    def entries(self, num_layers: int) -> tuple[Keep, ...]:
        return one_step(self.layer, self.keep, num_layers, "DivPrune")

    def order(self) -> Ranking:
        return RANKINGS["diversity"]
