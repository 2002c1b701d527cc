"""Published curves to hold beside one's own, read off the figures of the G-Search paper (arXiv 2412.00556)."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["SCHEDULE", "TAU", "half_gone", "over_depth"]

SCHEDULE = (
    1.0, 1.0, .648, .640, .619, .619, .619, .501, .499, .498, .498, .487, .236, .236, .236, .236, .184, .182, .181,
    .077, .074, .073, .070, .070, .069, .060, .041, .040, .038, .033, .031, .031,
)  # fmt: skip
"""Keep rates that G-Search found for LLaVA-1.5-7B, by layer (fig. 1c, +-.003; 31 are drawn, the last is held)."""

TAU = {
    "published, fig. 1a": (
        .08, .71, .74, .68, .85, .80, .77, .77, .79, .78, .75, .76, .76, .73, .75, .75, .76, .76, .79, .76, .83, .81,
        .80, .80, .74, .75, .72, .79, .80, .79, .72,
    ),
    "published, fig. 1b": (
        .65, .82, .76, .81, .84, .82, .80, .82, .79, .79, .80, .77, .80, .80, .76, .83, .77, .80, .83, .80, .81, .81,
        .82, .81, .84, .81, .81, .79, .78, .81, .82,
    ),
}  # fmt: skip
"""Kendall's tau between each layer and the next of two models with 32 layers (figs. 1a and 1b, +-.01). Which models
they are is not known to us; LLaVA-1.5-7B and InternVL2-8B are likely."""


def over_depth(values: Sequence[float], length: int) -> list[float]:
    """Where `values` lie on the axis of a model with `length` of them: the first at 0, the last at `length - 1`."""
    return [place * (length - 1) / (len(values) - 1) for place in range(len(values))]


def half_gone(rates: Sequence[float]) -> int | None:
    """First layer that keeps no more than half; None: none does."""
    return next((layer for layer, rate in enumerate(rates) if rate <= 0.5), None)
