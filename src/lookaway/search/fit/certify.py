"""From the search split to a certified policy: an order of testing, and the test itself. Pure functions on outcomes.

Policies are tested one after the other from safe to bold, in an order fixed on the search split, each with a one-sided
bound at level delta (`guarantee.py`); the first that fails ends it and the last that passed is taken. Fixed-sequence
testing needs no correction for the number of policies (Angelopoulos et al., Learn then Test, arXiv 2110.01052): for a
wrong certificate the first policy of the order whose true loss is above epsilon must pass, which has probability
<= delta. To stop earlier, by what was measured so far, changes nothing about that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .candidates import FULL
from .choices import Choice
from .guarantee import Guarantee

__all__ = ["Certificate", "Tested", "certify", "coarse_ladder", "ladder"]

STEP = 0.93
"""Each rung of the ladder costs at most this share of the one before ..."""
SAFE_STEP = 0.8
"""... and, while no loss at all was seen on the search split, at most this: these are the policies that will pass."""


@dataclass(frozen=True)
class Tested:
    """One test on the certification split."""

    choice: Choice
    """As measured there."""
    bound: float
    """Upper bound of the mean loss (of changed answers: of their share), at confidence 1 - delta."""


@dataclass(frozen=True)
class Certificate:
    """The outcome of testing: which policy passed, and all tests in order."""

    passed: Tested | None
    """The last that passed and costs less than the full model on these samples too; None: none did."""
    tested: tuple[Tested, ...]
    guarantee: Guarantee


def ladder(found: Sequence[Choice], guarantee: Guarantee) -> list[Choice]:
    """The order of testing, from dear and safe to cheap and bold; it depends on the search split alone.

    These are the levels of `coarse_ladder`, and before each of them its safer variants (`_safer`): they cannot keep
    a level from passing, and where it fails, the last of them that passed is cheaper than the level before.
    """
    rungs: list[Choice] = []
    for level in coarse_ladder(found, guarantee):
        if rungs:
            rungs += _safer(level, found, below=rungs[-1].share)
        rungs.append(level)
    return rungs


def _safer(level: Choice, found: Sequence[Choice], below: float) -> list[Choice]:
    """Second looks with the same first pass that fall back on the full model in every case in which `level` looks
    again, and in more; those that cost less than `below`, from dear to cheap.

    On any sample they lose nothing that `level` does not lose, so to test them first cannot end the test early.
    """
    least = level.threshold or 0.0
    some = [c for c in found if c.first == level.first and c.then == FULL and (c.threshold or 0.0) >= least]
    return sorted((c for c in some if level.share < c.share < below), key=lambda c: -c.share)


def coarse_ladder(found: Sequence[Choice], guarantee: Guarantee) -> list[Choice]:
    """The levels of the order of testing.

    At each level of cost it takes the policy that lost least; of equal ones a second look that falls back on the full
    model, the one that does so most readily, for only answers that it was sure of can change; then the dearest, which
    keeps most. The cheapest policy that lost nothing is always among them. It ends where the search split already
    shows, with confidence 1 - delta, that the loss is above epsilon.
    """
    total = {id(choice): guarantee.total(choice) for choice in found}
    spotless = [choice for choice in found if total[id(choice)] == 0]
    least = min(spotless, key=lambda c: (c.share, c.name), default=None)
    rungs: list[Choice] = []
    level = 1.0
    for _ in range(200):
        affordable = [choice for choice in found if choice.share <= level]
        if not affordable:
            break
        fewest = min(total[id(choice)] for choice in affordable)
        best = max((c for c in affordable if total[id(c)] == fewest), key=_safety)
        if guarantee.hopeless(best):
            break
        rungs.append(best)
        level = best.share * (SAFE_STEP if fewest == 0 else STEP)
        if least is not None and fewest == 0 and best is not least and least.share > level:
            rungs.append(least)  # the step would have passed it by
            level = least.share * STEP
    return rungs


def _safety(choice: Choice) -> tuple[float, float, str]:
    """Orders policies that lost equally much on the search split."""
    return (choice.threshold or 0.0) if choice.then == FULL else -1.0, choice.share, choice.name


def certify(
    order: Sequence[Choice], measure: Callable[[Choice], Choice | None], guarantee: Guarantee,
    on_test: Callable[[Tested], object] = lambda tested: None,
    enough: Callable[[Choice], bool] = lambda choice: False,
) -> Certificate:  # fmt: skip
    """Test the policies in this order on samples that nothing else has seen.

    Args:
        measure: a choice of the search split -> the same policy on the certification split, one question an image.
            None: the model cannot run it on one of these samples, which ends the test like a policy that fails.
        enough: whether a choice that passed is all that is asked for; then bolder ones are not tested.
    """
    tested: list[Tested] = []
    passed = None
    for choice in order:
        found = measure(choice)
        if found is None:
            break
        result = Tested(found, guarantee.bound(found))
        tested.append(result)
        on_test(result)
        if result.bound > guarantee.epsilon:
            break
        if found.share < 1:  # all that pass hold together, so whichever of them may be taken
            passed = result
        if enough(choice):
            break
    return Certificate(passed, tuple(tested), guarantee)
