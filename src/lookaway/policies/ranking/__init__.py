"""Which visual tokens matter most: pure functions over a view, by name in `RANKINGS`."""

from . import attention, blind, conditional, states  # noqa: F401  (they register themselves)
from .base import RANKINGS, Ranking, Wanted, keep_best, ranking, ranking_named

__all__ = ["RANKINGS", "Ranking", "Wanted", "keep_best", "ranking", "ranking_named"]
