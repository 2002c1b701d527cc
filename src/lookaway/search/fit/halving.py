"""Successive halving: all policies run on few samples, the better half on twice as many, and so on. Pure functions.

The rule (Jamieson and Talwalkar, arXiv 1502.07943, with rate 2). A policy of one pass is as good as the cheapest choice
that it takes part in, alone or in a second look, among the choices that still look kept: whose mean loss on the samples
so far is at most epsilon. The better half stays. So does what a second look falls back on, and what can be certified
where all others fail: the full model, or, where there are no second looks, the policy with the smallest loss and of
equal ones the dearest.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from .candidates import FULL
from .choices import Choice
from .guarantee import Guarantee

__all__ = ["parts_of", "survivors"]

FEWEST = 20
"""Samples of the first part, at least."""


def parts_of(samples: int, halvings: int) -> list[range]:
    """The samples in parts that are run one after the other: 160 with three halvings are 20, 20, 40 and 80."""
    while halvings and samples / 2**halvings < FEWEST:
        halvings -= 1
    ends = [0, *(round(samples / 2**left) for left in range(halvings, -1, -1))]
    return [range(first, last) for first, last in pairwise(ends)]


def survivors(made: Sequence[Choice], keys: Sequence[str], guarantee: Guarantee) -> list[str]:
    """The keys that go on, in their order.

    Args:
        made: every choice of the candidates `keys`, on the samples so far.
    """
    falls_back = FULL in keys  # it costs no run
    wanted = (len(keys) - falls_back + 1) // 2 + falls_back
    kept = sorted((c for c in made if guarantee.looks_kept(c)), key=lambda c: (c.share, c.name))
    singles = [choice for choice in made if choice.then is None] or list(made)
    found: dict[str, None] = {}
    if falls_back:
        found[FULL] = None
    elif singles:
        found[min(singles, key=lambda c: (guarantee.total(c), -c.share, c.name)).first] = None
    for choice in kept:
        new = [key for key in choice.keys if key not in found]
        if len(found) + len(new) <= wanted:
            found.update(dict.fromkeys(new))
    rest = sorted(singles, key=lambda c: (guarantee.total(c), c.share, c.name))  # where few look kept: the safer ones
    for choice in rest:
        if len(found) < wanted:
            found.setdefault(choice.first)
    return [key for key in keys if key in found]
