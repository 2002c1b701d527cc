"""The best policy that a fit has seen so far: what its progress shows, and what Ctrl-C leaves behind. Not certified."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.cost import DecoderShape
from .candidates import Candidate
from .choices import Choice, may_follow, pairs, single
from .guarantee import Guarantee
from .options import FitOptions
from .outcomes import Outcomes

__all__ = ["BestSoFar"]


class BestSoFar:
    """Follows one part of a search, candidate by candidate.

    The best is the cheapest choice below the full model's cost that looks certified on the samples so far: whose bound
    is at most epsilon there, or, where so few samples cannot show that, which lost nothing on them.
    """

    def __init__(
        self, candidates: Sequence[Candidate], full: Outcomes, shape: DecoderShape, options: FitOptions,
        guarantee: Guarantee, second_look_from: int,
    ) -> None:  # fmt: skip
        self.by_key = {candidate.key: candidate for candidate in candidates}
        self.full, self.shape, self.options, self.guarantee = full, shape, options, guarantee
        self.second_look_from = second_look_from
        self.known: dict[str, tuple[Outcomes, Choice]] = {}
        self.best: Choice | None = None
        """None: nothing cheaper than the full model was found yet."""

    def add(self, key: str, found: Outcomes) -> bool:
        """One more candidate has run; True where it makes a better choice."""
        candidate = self.by_key[key]
        alone = single(candidate, found, self.full, self.shape, self.options)
        self.known[key] = found, alone
        new = [alone] if alone.method in (*self.options.methods, "own") else []
        if "second-look" in self.options.methods:
            for other in self.known:
                new += self._pairs(key, other) if other != key else []
                new += self._pairs(other, key) if other != key else []
        most = 1.0 if self.best is None else self.best.share
        better = [c for c in new if c.share < most and self._looks_certified(c)]
        if not better:
            return False
        self.best = min(better, key=lambda c: (c.share, c.name))
        return True

    def _pairs(self, first: str, then: str) -> list[Choice]:
        (cheap, once), (dear, twice) = self.known[first], self.known[then]
        a, b = self.by_key[first], self.by_key[then]
        if not may_follow(a, b, once, twice, self.shape.num_layers, self.second_look_from):
            return []
        thresholds = self.options.thresholds
        return pairs(a, b, thresholds, cheap, dear, self.full, self.shape, self.options)

    def _looks_certified(self, choice: Choice) -> bool:
        return self.guarantee.total(choice) == 0 or self.guarantee.bound(choice) <= self.guarantee.epsilon
