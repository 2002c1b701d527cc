"""Shapes of keep schedules: curves from 'keep nothing' to 'keep everything', one number t in [0, 1] along each.

Every curve keeps more in every layer as t grows and never keeps more in a deeper layer than in a shallower one. So a
budget is met by bisection on t alone (`search.budget.solve`), whatever the shape, and what is left of a shape's
parameters is all that a search has to find.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ...core.errors import SettingsError

__all__ = [
    "Curve", "Span", "exponential", "linear", "logistic", "multi_step", "random_steps", "rescaled", "single_layer",
]  # fmt: skip

Curve = Callable[[float], Sequence[float]]
"""t in [0, 1] -> keep rates of the layers `first` .. L - 1, each in [0, 1], not increasing."""


@dataclass(frozen=True)
class Span:
    """The layers whose keep rate a schedule sets: `first` .. `num_layers` - 1. The layers before keep everything.

    `first` is where tokens can leave for the first time. The paper's schedules keep layers 1 and 2 (counted from 1)
    whole, since a ranking comes from the layer before and the first layer's is no good: `first` = 2.
    """

    num_layers: int
    first: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.first < self.num_layers:
            raise SettingsError(
                f"The first layer that may keep less must lie in [1, {self.num_layers - 1}], not {self.first}: layer 0 "
                "always sees the whole image."
            )

    @property
    def layers(self) -> range:
        return range(self.first, self.num_layers)

    def check(self, layer: int, what: str) -> None:
        """Raise SettingsError unless `layer` is one of `layers`."""
        if layer not in self.layers:
            raise SettingsError(f"{what} must lie in [{self.first}, {self.num_layers - 1}], not {layer}.")


def logistic(span: Span, k: float, amplitude: float = 1.0) -> Curve:
    """P-Sigmoid: r(i) = A / (1 + e^(k (i - alpha))), alpha = the layer (0-based) of half height.

    The paper's formula as quoted has the other sign, with which it would grow with depth. Along t alpha moves from far
    before the first to far behind the last layer; then the amplitude rises from A to 1, so that every budget is met.

    Args:
        k: steepness, > 0; the paper's optima lie between 0.35 and 0.95.
        amplitude: A in (0, 1]; the curve drawn in the paper's first figure has 0.755.
    """
    if not k > 0:
        raise SettingsError(f"The steepness k of a logistic schedule must be above 0, not {k}.")
    if not 0 < amplitude <= 1:
        raise SettingsError(f"The amplitude of a logistic schedule must lie in (0, 1], not {amplitude}.")
    margin = 40.0 / k  # e^-40: nothing, and everything but nothing
    low, high = span.first - margin, span.num_layers + margin

    def curve(t: float) -> list[float]:
        if t > 0.5:
            height = amplitude + (1 - amplitude) * (2 * t - 1)
            return [height] * len(span.layers)
        alpha = low + 2 * t * (high - low)
        return [amplitude * _sigmoid(-k * (i - alpha)) for i in span.layers]

    return curve


def linear(span: Span) -> Curve:
    """A straight line down from 1, cut at 0; its slope is solved."""
    depth = len(span.layers)
    return lambda t: [_clip(1 - (1 - t) / t * (j + 1) / depth) if t > 0 else 0.0 for j in range(depth)]


def exponential(span: Span) -> Curve:
    """r = t^x, x = the share of the layers that have run: the same part leaves before every layer."""
    depth = len(span.layers)
    return lambda t: [t ** ((j + 1) / depth) for j in range(depth)]


def single_layer(span: Span, layer: int) -> Curve:
    """One reduction, before `layer`, to the rate t (FastV's shape)."""
    span.check(layer, "The layer of a single reduction")
    return lambda t: [1.0 if i < layer else t for i in span.layers]


def multi_step(span: Span, starts: Sequence[int]) -> Curve:
    """The rate is multiplied by t before each of the layers `starts` (PyramidDrop's shape: three of them, t = 0.5)."""
    if not starts or list(starts) != sorted(set(starts)):
        raise SettingsError(f"The layers of a multi-step schedule must ascend, not {list(starts)}.")
    for layer in starts:
        span.check(layer, "Each layer of a multi-step schedule")
    passed = [sum(layer <= i for layer in starts) for i in span.layers]
    return lambda t: [t**steps if steps else 1.0 for steps in passed]


def random_steps(span: Span, seed: int) -> Curve:
    """A random staircase: any number of steps, before random layers, of random heights. The same for the same seed."""
    draw = np.random.default_rng(seed)
    depth = len(span.layers)
    steps = int(draw.integers(1, depth + 1))
    cuts = np.sort(draw.choice(depth, steps, replace=False))
    heights = draw.dirichlet(np.ones(steps + 1))[:-1]  # what leaves at each cut; the rest stays to the end
    drops = np.zeros(depth)
    drops[cuts] = heights
    return rescaled(np.clip(1 - drops.cumsum(), 1e-9, 1 - 1e-9).tolist())


def rescaled(rates: Sequence[float]) -> Curve:
    """Another schedule's shape, r^g with the exponent g solved: order and flat runs stay as they are.

    Rates of exactly 0 or 1 are brought just inside, so that every budget is met.
    """
    if any(later > earlier + 1e-9 for earlier, later in pairwise(rates)):
        raise SettingsError(f"Keep rates must not grow with depth: {[round(float(r), 4) for r in rates]}.")
    inside = [min(max(float(rate), 1e-9), 1 - 1e-9) for rate in rates]

    def curve(t: float) -> list[float]:
        if t <= 0:
            return [0.0] * len(inside)
        return [rate ** ((1 - t) / t) for rate in inside]

    return curve


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _clip(x: float) -> float:
    return min(max(x, 0.0), 1.0)
