"""FitPrune (arXiv 2409.10197): a recipe fitted to attention statistics says how many tokens each layer keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...core.errors import SettingsError
from ...core.registry import register
from ..ranked import Keep, RankedPolicy, check_entries
from ..ranking import Ranking, ranking_named

__all__ = ["FitPrune", "fit_recipe"]


@register("fitprune")
@dataclass(frozen=True)
class FitPrune(RankedPolicy):
    """A recipe fitted to attention statistics: each layer drops what the attention will miss least (FitPrune).

    The published recipe minimises the change of the attention that visual tokens get, from the text and from each
    other; a binary search on the change that is let pass meets the budget. Here `fit_recipe` does that with the
    attention of the text alone, and tokens are ranked by the question's attention: the attention of visual tokens on
    each other would need an S x S map in every layer.
    """

    keep: Sequence[Keep]
    """The recipe, one entry a decoder layer; `fit_recipe` makes one."""
    ranking: str = "question-mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "keep", check_entries(self.keep, "FitPrune"))
        ranking_named(self.ranking)

    def entries(self, num_layers: int) -> tuple[Keep, ...]:
        return tuple(self.keep)

    def order(self) -> Ranking:
        return ranking_named(self.ranking)


def fit_recipe(attention: Tensor, mean_keep: float, first_prunable: int = 1) -> tuple[float, ...]:
    """A recipe from attention statistics: the smallest change of attention that meets a budget.

    For a tolerance t, layer k needs the fewest tokens that together get the share 1 - t of the attention on all visual
    tokens; it keeps what it or any later layer needs, since dropped tokens do not come back. t is found by bisection.

    Args:
        attention: [L, V], attention on each visual token in each layer, SORTED within each sample before the mean over
            samples, not negative.
        mean_keep: budget, mean over layers of the share that is kept.
        first_prunable: layers before this one keep all.

    Returns:
        Shares, one a layer; their mean is at most `mean_keep`.

    Raises:
        SettingsError: the statistics are no such table, or the budget is out of reach.
    """
    if attention.dim() != 2 or attention.numel() == 0 or bool((attention < 0).any()):
        raise SettingsError(f"fit_recipe takes attention [layers, visual tokens], not negative, not {attention.shape}.")
    depth = len(attention)
    least = first_prunable / depth
    if not least <= mean_keep <= 1:
        raise SettingsError(
            f"A mean keep of {mean_keep} is out of reach: the first {first_prunable} of {depth} layers keep all, so it "
            f"is from {least:.3f} to 1."
        )
    curve = attention.double().sort(dim=1, descending=True).values.cumsum(1)
    curve = curve / curve[:, -1:].clamp(min=1e-300)  # share of the attention on the best 1, 2, ... tokens
    low, high = 0.0, 1.0 + 1e-9  # at the upper end no layer needs any token
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _mean(_shares(curve, middle, first_prunable)) <= mean_keep else (middle, high)
    return _shares(curve, high, first_prunable)


def _shares(curve: Tensor, tolerance: float, first_prunable: int) -> tuple[float, ...]:
    needed = (curve < 1 - tolerance).sum(1) + (1 - tolerance > 0)  # [L]
    needed = needed.clamp(max=curve.shape[1])
    needed[:first_prunable] = curve.shape[1]
    later = needed.flip(0).cummax(0).values.flip(0)
    return tuple((later.double() / curve.shape[1]).tolist())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
