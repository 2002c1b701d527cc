"""Options of `lookaway fit` that do not concern files: the guarantee, the cost, and the space of policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...core.errors import SettingsError

__all__ = ["METHODS", "CostUnit", "FitOptions"]

CostUnit = Literal["flops", "kv"]
METHODS = ("reduction", "two-reductions", "exit", "second-look")


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Find the cheapest policy that keeps the answers, and certify it."""

    epsilon: float = 0.03
    """At most this share of the answers may differ from the full model's ..."""
    delta: float = 0.05
    """... with confidence 1 - delta over the draw of the certification samples."""
    cost: CostUnit = "flops"
    """What is minimised: counted FLOPs of the decoder's prefill (flops), or entries of its KV cache (kv)."""
    methods: tuple[str, ...] = METHODS
    """Kinds of policies that are tried: reduction, two-reductions, exit, second-look."""
    rankings: tuple[str, ...] = ("last-token",)
    """Which visual tokens a reduction keeps: names of rankings."""
    reduce_before: tuple[int, ...] = (2,)
    """Decoder layers before which a reduction takes place."""
    shares: tuple[float, ...] = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)
    """Shares of the visual tokens that a reduction keeps."""
    thresholds: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
    """Confidences below which a row looks again: the ones that are tried."""
    confidence: str = "probability"
    """What a second look goes by: probability, margin or entropy of the first answer token."""

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < 1 or not 0 < self.delta < 1:
            raise SettingsError(f"epsilon and delta must lie between 0 and 1, not {self.epsilon} and {self.delta}.")
        unknown = sorted(set(self.methods) - set(METHODS))
        if unknown or not self.methods:
            raise SettingsError(f"Methods {unknown or 'none'}: choose among {', '.join(METHODS)}.")
        wrong = [share for share in self.shares if not 0 <= share < 1]
        if wrong:
            raise SettingsError(f"A reduction keeps a share from 0 to below 1 of the visual tokens, not {wrong[0]}.")
