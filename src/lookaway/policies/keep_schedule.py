"""Keep schedules: how many visual tokens each layer keeps, and by which ranking. What searches find, and baselines.

Source: G-Search and P-Sigmoid (arXiv 2412.00556, CVPR 2025), whose body text gives no ranking in detail;
`docs/methods/keep-schedule.md` says what is reconstructed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core.errors import SettingsError
from ..core.registry import register
from .ranked import Keep, RankedPolicy, check_entries, steps_to_entries
from .ranking import Ranking, ranking_named

__all__ = ["KeepSchedule"]


@register("keep-schedule")
@dataclass(frozen=True)
class KeepSchedule(RankedPolicy):
    """Each layer keeps its share of the visual tokens, those that a ranking puts first (G-Search, P-Sigmoid).

    Counts are per row: rows with images of different sizes keep the same share, or the same number where entries are
    counts (at most what they have). Order and position ids stay. A layer with the entry of the one before does nothing,
    and no score is computed for it.

    Raises:
        SettingsError: entries that grow with depth or are out of range, an unknown ranking; at attachment: another
            number of entries than decoder layers, or less than 1.0 before the first layer that can be pruned.
    """

    keep: Sequence[Keep]
    """One entry a decoder layer: a float is a share of the row's original visual tokens, rounded to the nearest token;
    an int is a count. The first layers, before which nothing can leave, are 1.0."""
    ranking: str = "last-token"
    """A name in `RANKINGS`; scores come from the layer before."""
    seed: int = 0
    """For the ranking 'random'."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.keep, str) or not isinstance(self.keep, Sequence) or not len(self.keep):
            raise SettingsError(f"KeepSchedule takes one entry a decoder layer, not {self.keep!r}.")
        object.__setattr__(self, "keep", check_entries(self.keep, "KeepSchedule"))
        ranking_named(self.ranking)

    @classmethod
    def from_steps(
        cls, steps: Mapping[int, Keep], num_layers: int, ranking: str = "last-token", seed: int = 0
    ) -> KeepSchedule:
        """From `{layer: what it and the layers after it keep}`; all tokens before the first step."""
        return cls(steps_to_entries(steps, num_layers, "KeepSchedule"), ranking, seed)

    def entries(self, num_layers: int) -> tuple[Keep, ...]:
        return tuple(self.keep)

    def order(self) -> Ranking:
        return ranking_named(self.ranking)

    def wanted_seed(self) -> int:
        return self.seed
