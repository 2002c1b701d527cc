"""Why a fit ended without a certificate, or without the speed-up that was asked for, and what would be needed."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..search.fit.choices import Choice
    from ..search.fit.guarantee import Guarantee
    from ..search.fit.options import FitOptions
    from ..search.fit.session import FitResult

__all__ = ["not_fast_enough", "what_was_lost", "why_none"]


def what_was_lost(choice: Choice, guarantee: Guarantee) -> str:
    """What a policy did to the answers, in words."""
    found = f"{choice.changed} of {len(choice.same)} answers changed"
    if guarantee.metric == "score":
        found += f", the score fell by {guarantee.total(choice) / len(choice.same):.2%}"
    return found


def why_none(
    result: FitResult, guarantee: Guarantee, more: Callable[[int], str] | None = None, speedup: float | None = None
) -> str:
    """Why no policy is certified, and what would be needed; `more` says how to get so many samples.

    The terminal says it, and the record holds it for the page ('why').
    """
    from ..search.fit.guarantee import samples_at_share

    if not result.certificate.tested and result.order:
        safest = result.order[0]
        reasons = " ".join(result.refused[key] for key in safest.keys if key in result.refused)
        return (
            f"The safest policy, {safest.name}, cannot run on the certification samples, so nothing was tested: "
            f"{reasons} Leave it out (--methods, --before-decoder), or give other --data."
        )
    if not result.certificate.tested:
        kept = sum(guarantee.looks_kept(choice) for choice in result.found)
        if result.timed:  # by counted cost every reduction saves something; by the clock none need
            return _none_fast_and_kept(result, kept, guarantee, speedup)
        if kept:
            return (
                f"No policy that costs less than the full model keeps the answers on the search split at epsilon "
                f"{guarantee.epsilon}: the {kept} that do cost more. Allow a larger --epsilon, or add policies with "
                "--methods, --shares or --candidate."
            )
        return (
            f"No policy of this space keeps the answers on the search split at epsilon {guarantee.epsilon}: each lost "
            "more than that. Allow a larger --epsilon, or add policies with --methods, --shares or --candidate."
        )
    first, last = result.certificate.tested[0], result.certificate.tested[-1]
    passed = [t for t in result.certificate.tested if t.bound <= guarantee.epsilon]
    if passed:  # but none of them is cheaper than the full model
        text = (
            f"No policy that passed saves anything: {passed[-1].choice.name} takes {passed[-1].choice.share:.1%} of "
            "the full model's cost on the certification samples."
        )
        if last.bound > guarantee.epsilon:
            text += (
                f" The next one, {last.choice.name} ({last.choice.share:.1%}): "
                f"{what_was_lost(last.choice, guarantee)} (upper bound {last.bound:.2%}, allowed "
                f"{guarantee.epsilon:.2%})."
            )
        return f"{text} Allow a larger --epsilon, or add policies with --methods, --shares or --candidate."
    by_seconds = first.choice.seconds is not None
    share = guarantee.total(first.choice) / len(first.choice.same)
    needed = samples_at_share(guarantee, share)
    than = "timed policies that are no slower than" if by_seconds else "policies that cost no more than"
    text = (
        f"No policy passed. The safest of the {than} the full model, {first.choice.name}: "
        f"{what_was_lost(first.choice, guarantee)} (upper bound {first.bound:.2%}, allowed {guarantee.epsilon:.2%})"
    )
    larger = f"allow --epsilon {ceil(1000 * first.bound) / 1000:g} or more"
    slower = (
        ", or minimise --cost flops without --speedup, where safer policies are that save less" if by_seconds else ""
    )
    if needed is None:
        lost = "changed" if guarantee.metric == "answers" else "lost"
        return (
            f"{text}. {share:.2%} {lost} is not below what is allowed, so more samples would show the same: this "
            f"policy changes too much. {larger[0].upper()}{larger[1:]}, or add safer policies with --methods, --shares "
            f"or --candidate, or take another model{slower}."
        )
    return (
        f"{text}; at this share ({share:.2%}) about {needed} samples would show it. "
        f"{'Give more --data' if more is None else more(needed)}, or {larger}{slower}."
    )


def _none_fast_and_kept(result: FitResult, kept: int, guarantee: Guarantee, speedup: float | None) -> str:
    """Why nothing was tested where seconds were measured: what is kept is too slow."""
    fastest = max(result.timed, key=_speedup)
    reached = f"the fastest of the {len(result.timed)} timed, {fastest.name}, is {_speedup(fastest):.2f} times as fast"
    if speedup is not None:
        reached += f" ({speedup:g} times was asked for)"
    epsilon = f"on the search split at epsilon {guarantee.epsilon}"
    if _speedup(fastest) < 1:
        keeping = f"though {kept} keep" if kept else "and none keeps"
        return (
            f"No policy that was timed is as fast as the full model on this machine, {keeping} the answers {epsilon}: "
            f"{reached}. Try a larger --batch-size or --answer-tokens, or minimise --cost flops."
        )
    return (
        f"No policy that was timed and is as fast as the full model on this machine keeps the answers {epsilon}: "
        f"{reached}, and {what_was_lost(fastest, guarantee)}. Allow a larger --epsilon, or minimise --cost flops."
    )


def _speedup(choice: Choice) -> float:
    return 0.0 if choice.seconds is None else choice.seconds.speedup


def not_fast_enough(result: FitResult, options: FitOptions, guarantee: Guarantee) -> str | None:
    """Where seconds count and the certified policy does not reach the speed-up that was asked for, or none at all: what
    it reaches, and what would be needed; None: it is reached, or seconds do not count."""
    if result.confirmed is None or result.chosen is None:
        return None
    found = result.confirmed.speedup
    if options.speedup is None:
        return None if found > 1 else (
            f"Timed again, {result.chosen.name} is no faster than the full model on this machine ({found:.2f} times). "
            "Try a larger --batch-size or --answer-tokens, or minimise --cost flops."
        )  # fmt: skip
    if found >= options.speedup:
        return None
    text = (
        f"A speed-up of {options.speedup:g} is not reached: the fastest policy that passed, {result.chosen.name}, is "
        f"{found:.2f} times as fast as the full model."
    )
    fast = [c for c in result.order if c.seconds is not None and c.seconds.speedup >= options.speedup]
    if not fast:
        best = max((c.seconds.speedup for c in result.order if c.seconds is not None), default=found)
        return f"{text} No policy that keeps the answers so far is faster than {best:.2f} times. Lower --speedup."
    safest = fast[0]
    bound = guarantee.bound(safest)
    return (
        f"{text} The safest that is as fast as asked for, {safest.name} ({safest.seconds.speedup:.2f} times), lost "  # type: ignore[union-attr]
        f"more: {what_was_lost(safest, guarantee)} on the search split. It would take --epsilon {bound:.3f} or so"
        + (", or more --data to certify on." if guarantee.looks_kept(safest) else ".")
    )
