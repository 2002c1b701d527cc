"""From the search split to a certified policy: an order of testing, and the test itself. Pure functions on outcomes.

Policies are tested one after the other from safe to bold, in an order fixed on the search split, each with the exact
one-sided binomial bound at level delta; the first that fails ends it and the last that passed is taken. Fixed-sequence
testing needs no correction for the number of policies (Angelopoulos et al., Learn then Test, arXiv 2110.01052): for a
wrong certificate the first policy of the order whose true rate is above epsilon must pass, which has probability
<= delta.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...core.bounds import upper_bound
from .choices import Choice

__all__ = ["Certificate", "Tested", "certify", "ladder"]

STEP = 0.93
"""Each rung of the ladder costs at most this share of the one before."""


@dataclass(frozen=True)
class Tested:
    """One test on the certification split."""

    choice: Choice
    """As measured there."""
    bound: float
    """Upper bound of the share of changed answers, at confidence 1 - delta."""


@dataclass(frozen=True)
class Certificate:
    """The outcome of testing: which policy passed, and all tests in order."""

    passed: Tested | None
    """The cheapest that passed; None: none did."""
    tested: tuple[Tested, ...]
    epsilon: float
    delta: float


def ladder(found: Sequence[Choice], epsilon: float, delta: float) -> list[Choice]:
    """The order of testing, from dear and safe to cheap and bold; it depends on the search split alone.

    At each level of cost it takes the policy that changed the fewest answers, and of equal ones the dearest, which
    keeps most. It ends where the search split already shows, with confidence 1 - delta, that more than epsilon change.
    """
    from scipy.stats import binomtest

    rungs: list[Choice] = []
    level = 1.0
    for _ in range(200):
        affordable = [choice for choice in found if choice.share <= level]
        if not affordable:
            break
        fewest = min(choice.changed for choice in affordable)
        best = max((c for c in affordable if c.changed == fewest), key=lambda c: (c.share, c.name))
        hopeless = binomtest(best.changed, len(best.same), epsilon, alternative="greater").pvalue < delta
        if hopeless:
            break
        rungs.append(best)
        level = best.share * STEP
    return rungs


def certify(
    order: Sequence[Choice], measure: Callable[[Choice], Choice], epsilon: float, delta: float,
    on_test: Callable[[Tested], object] = lambda tested: None,
) -> Certificate:  # fmt: skip
    """Test the policies in this order on samples that nothing else has seen.

    Args:
        measure: a choice of the search split -> the same policy on the certification split, one question an image.
    """
    tested: list[Tested] = []
    passed = None
    for choice in order:
        found = measure(choice)
        result = Tested(found, upper_bound(found.changed, len(found.same), delta))
        tested.append(result)
        on_test(result)
        if result.bound > epsilon:
            break
        passed = result
    return Certificate(passed, tuple(tested), epsilon, delta)
