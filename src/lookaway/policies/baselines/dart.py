"""DART (arXiv 2502.11494): tokens that double a few pivots leave, whatever their attention."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from ...core.decision import LayerView
from ...core.errors import SettingsError
from ...core.registry import register
from ..ranked import Keep, RankedPolicy, check_some, one_step
from ..ranking import Ranking, Wanted
from ..ranking.attention import question_of
from ..ranking.states import duplication_to, key_norm, unit_states

__all__ = ["DART", "least_alike_each"]

RULES = ("each", "nearest")


@register("dart")
@dataclass(frozen=True)
class DART(RankedPolicy):
    """Before one layer, tokens that double a few pivots leave: duplication, not importance (DART).

    Pivots are the visual tokens and the question's tokens of longest key. The visual ones stay; each pivot in turn
    then keeps its share of the budget: of the tokens that no pivot before it took, those least like itself.
    """

    layer: int = 2
    """Before it tokens leave; 0: before the decoder, where there is no key yet and the state's length counts."""
    keep: Keep = 0.222
    """What stays, visual pivots included; 0.222 is 128 of LLaVA-1.5's 576."""
    pivots: int = 4
    """Visual pivots."""
    text_pivots: int = 4
    rule: str = "each"
    """'each': as said above. 'nearest': those stay whose largest likeness to any visual pivot is least (lookaway 0.1,
    without text pivots)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_some(self.keep, "DART")
        if self.pivots < 1 or self.text_pivots < 0:
            raise SettingsError(
                f"DART needs at least one visual pivot, and text pivots from 0 on, not {self.pivots} and "
                f"{self.text_pivots}."
            )
        if self.rule not in RULES or (self.rule == "nearest" and self.text_pivots):
            raise SettingsError(
                f"DART's rule is 'each', or 'nearest' with text_pivots=0, not {self.rule!r} with "
                f"text_pivots={self.text_pivots}."
            )

    def entries(self, num_layers: int) -> tuple[Keep, ...]:
        return one_step(self.layer, self.keep, num_layers, "DART")

    def order(self) -> Ranking:
        if self.rule == "nearest":
            score: Any = partial(duplication_to, pivots=self.pivots)
        else:
            score = partial(least_alike_each, pivots=self.pivots, text_pivots=self.text_pivots)
        by_keys = self.layer > 0 or self.rule == "nearest"
        return Ranking("duplication", "tokens least like a few pivots stay", score, looks=by_keys)

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: Any = None) -> Self:
        if "positions" in config and "rule" not in config:  # saved whole by 0.1, which had one rule
            config = {**config, "rule": "nearest", "text_pivots": 0}
        return super().from_config(config, tensors)


def least_alike_each(view: LayerView, wanted: Wanted, pivots: int, text_pivots: int) -> Tensor:
    """3 and more for visual pivots, 2 for tokens that a pivot keeps, less for the others. [B, S]"""
    visual, states = view.layout.visual, unit_states(view)
    length = key_norm(view, wanted) if view.layer else view.hidden.float().norm(dim=2)
    seen, is_pivot = _longest(length, visual, pivots, states)
    read, _ = _longest(length, question_of(view.layout), text_pivots, states)
    directions = torch.cat([seen, read], 1)  # [B, P, D]
    likeness = states @ directions.transpose(1, 2)  # [B, S, P]
    number = directions.shape[1]
    counts = torch.tensor(wanted.counts, device=visual.device)
    rest = (counts - is_pivot.sum(1)).clamp(min=0)
    kept = torch.zeros_like(visual)
    for pivot in range(number):
        quota = rest // number + (pivot < rest % number)  # [B]
        free = visual & ~is_pivot & ~kept
        place = likeness[:, :, pivot].masked_fill(~free, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
        kept = kept | (free & (place < quota[:, None]))
    longest = length.masked_fill(~visual, 0.0).amax(1, keepdim=True).clamp(min=1e-12)
    others = torch.where(kept, torch.full_like(length, 2.0), -likeness.amax(2))
    return torch.where(is_pivot, 3 + length / longest, others)


def _longest(length: Tensor, among: Tensor, count: int, states: Tensor) -> tuple[Tensor, Tensor]:
    """States [B, P, D] of the `count` slots in `among` bool [B, S] of greatest length, and which they are, bool [B, S].

    A row with fewer such slots repeats its first; one with none at all gives zeros, to which nothing is more alike.
    """
    best = length.masked_fill(~among, -torch.inf).topk(min(count, length.shape[1]), dim=1).indices  # [B, P]
    real = among.gather(1, best)
    chosen = torch.zeros_like(among).scatter(1, best, real)
    best = torch.where(real, best, best[:, :1])
    directions = states.gather(1, best[:, :, None].expand(-1, -1, states.shape[2]))
    return directions * among.any(1)[:, None, None], chosen
