"""Which policies of a fit are timed, and what was measured of them, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...core.decision import Policy
from ..trials.queue import TrialQueue
from .candidates import Candidate
from .certify import coarse_ladder
from .choices import Choice
from .guarantee import Guarantee
from .options import FitOptions
from .seconds import Seconds
from .trials import timed_once

__all__ = ["Timed", "with_seconds", "worth_timing"]

Timed = Callable[[Mapping[str, tuple[Policy, float]]], Mapping[str, Seconds]]
"""Measures policies: name -> (policy, share of samples that look again)."""


def worth_timing(made: Sequence[Choice], guarantee: Guarantee, each: int = 4, overall: int = 6) -> list[Choice]:
    """The choices that could be the fastest: by counted cost the ladder of all, thinned, and the cheap end of the
    ladder of each method, since what is cheap in FLOPs is not always so in seconds."""
    whole = coarse_ladder(made, guarantee)
    places = sorted({round(i * (len(whole) - 1) / max(overall - 1, 1)) for i in range(overall)}) if whole else []
    found = {whole[place].name: whole[place] for place in places}
    for method in sorted({choice.method for choice in made}):
        some = coarse_ladder([choice for choice in made if choice.method == method], guarantee)
        found |= {choice.name: choice for choice in some[-each:]}
    return list(found.values())


def with_seconds(
    some: Sequence[Choice], by_key: Mapping[str, Candidate], options: FitOptions, queue: TrialQueue, job: str,
    timed: Timed, timing: Mapping[str, Any] | None,
) -> list[Choice]:  # fmt: skip
    """The choices with their measured seconds as what is minimised; measured once, also where a fit goes on."""
    if not some:
        return []
    policies = {choice.name: (choice.policy(by_key, options), choice.again) for choice in some}
    of = {"timing": timing, "again": {name: again for name, (_, again) in policies.items()}}
    seconds = timed_once(queue, job, of, lambda: {name: s.to_plain() for name, s in timed(policies).items()})
    found = {name: Seconds.from_plain(plain) for name, plain in seconds.items()}
    return [replace(c, share=found[c.name].share, seconds=found[c.name]) for c in some]
