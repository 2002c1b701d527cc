"""What `lookaway fit` says of its result, and the record that reports read (docs/records.md, kind 'fit')."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from math import ceil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..search.fit.certify import Tested
    from ..search.fit.choices import Choice
    from ..search.fit.guarantee import Guarantee
    from ..search.fit.options import FitOptions
    from ..search.fit.session import FitResult

__all__ = ["not_fast_enough", "result_line", "summary_of", "test_line", "what_next", "why_none"]

UNITS = {"flops": "prefill FLOPs of the decoder", "kv": "KV-cache entries", "seconds": "seconds"}


def test_line(tested: Tested, guarantee: Guarantee) -> str:
    """One line on one test."""
    verdict = "passes" if tested.bound <= guarantee.epsilon else "fails"
    return (
        f"{verdict}: {tested.choice.name}: {tested.choice.share:.1%} of the cost, "
        f"{_lost(tested.choice, guarantee)}, bound {tested.bound:.2%}"
    )


def _lost(choice: Choice, guarantee: Guarantee) -> str:
    found = f"{choice.changed} of {len(choice.same)} answers changed"
    if guarantee.metric == "score":
        found += f", the score fell by {guarantee.total(choice) / len(choice.same):.2%}"
    return found


def result_line(summary: dict[str, Any], options: FitOptions) -> str:
    """The result in two sentences, and its seconds where they were measured."""
    chosen, shown = summary["chosen"], summary["certificate"]
    lost = "of the answers change" if options.metric == "answers" else "of the mean score is lost"
    text = (
        f"\n{chosen['name']}: {shown['share']:.1%} of the unpruned {UNITS[options.minimised]}. "
        f"{shown['changed']} of {shown['samples']} answers changed, so with confidence {1 - options.delta:.0%} at most "
        f"{shown['bound']:.2%} {lost} on inputs like these."
    )
    if options.metric == "score":
        text += f" The mean score fell by {shown['loss']:.2%} on them ({shown['method']})."
    timed = summary["confirmed"]
    if timed is not None:
        low, high = timed["quartiles"]
        text += (
            f" Timed again on the certification samples: {1000 * timed['seconds']:.0f} ms a batch of "
            f"{timed['batch_size']}, {timed['speedup']:.2f} times as fast as the full model (quartiles {low:.2f} to "
            f"{high:.2f} over {timed['rounds']} rounds)."
        )
    return text


def why_none(
    result: FitResult, guarantee: Guarantee, more: Callable[[int], str] | None = None, speedup: float | None = None
) -> str:
    """Why no policy is certified, and what would be needed; `more` says how to get so many samples.

    The terminal says it, and the record holds it for the page ('why').
    """
    from ..search.fit.guarantee import samples_at_share

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
                f" The next one, {last.choice.name} ({last.choice.share:.1%}): {_lost(last.choice, guarantee)} (upper "
                f"bound {last.bound:.2%}, allowed {guarantee.epsilon:.2%})."
            )
        return f"{text} Allow a larger --epsilon, or add policies with --methods, --shares or --candidate."
    by_seconds = first.choice.seconds is not None
    share = guarantee.total(first.choice) / len(first.choice.same)
    needed = samples_at_share(guarantee, share)
    than = "timed policies that are no slower than" if by_seconds else "policies that cost no more than"
    text = (
        f"No policy passed. The safest of the {than} the full model, {first.choice.name}: "
        f"{_lost(first.choice, guarantee)} (upper bound {first.bound:.2%}, allowed {guarantee.epsilon:.2%})"
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
        f"{reached}, and {_lost(fastest, guarantee)}. Allow a larger --epsilon, or minimise --cost flops."
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
        f"more: {_lost(safest, guarantee)} on the search split. It would take --epsilon {bound:.3f} or so"
        + (", or more --data to certify on." if guarantee.looks_kept(safest) else ".")
    )


def what_next(options: Any, saved: Any) -> str:
    """The command that shows the policy on samples that no part of the fit has seen; eval takes the split test."""
    command = f"next: lookaway eval --model {options.model} --policy {saved} --data"
    for use, split in (("certified", options.split), ("chose", options.search_split)):
        if {"test", "all"} & set(split.split("+")):
            return (
                f"{command} OTHER, with other pictures than {options.data}: its split test has {use} this policy, and "
                "shows nothing new about it."
            )
    return f"{command} {options.data}"


def summary_of(result: FitResult, options: FitOptions, guarantee: Guarantee, scorer: str | None) -> dict[str, Any]:
    """Payload of a record of kind 'fit'."""
    passed = result.certificate.passed
    certificate = None
    if passed is not None:
        certificate = {
            "epsilon": options.epsilon, "delta": options.delta, "samples": len(passed.choice.same),
            "changed": passed.choice.changed, "bound": passed.bound, "share": passed.choice.share,
            "metric": options.metric, "method": guarantee.method,
            "loss": guarantee.total(passed.choice) / len(passed.choice.same), "scorer": scorer,
        }  # fmt: skip
    rows = {id(choice): _row(choice, guarantee) for choice in (*result.found, *result.dropped, *result.order)}
    return {
        "options": json.loads(json.dumps(asdict(options), default=str)),
        "policy": None if result.policy is None else json.loads(
            json.dumps({"name": result.policy.name, "config": result.policy.to_config()}, default=str)
        ),
        "unit": options.minimised,
        "metric": options.metric,
        "chosen": None if result.chosen is None else _row(result.chosen, guarantee),
        "certificate": certificate,
        "confirmed": None if result.confirmed is None else result.confirmed.to_plain(),
        "tested": [{**_row(t.choice, guarantee), "bound": t.bound} for t in result.certificate.tested],
        "order": [rows[id(choice)] for choice in result.order],
        "timed": [_row(choice, guarantee) for choice in result.timed],
        "front": [rows[id(choice)] for choice in _undominated(result.found, guarantee)],
        "tried": [rows[id(c)] for c in (*result.found, *result.dropped) if c.then is None],
        "second_looks": [
            [c.share, c.changed, len(c.same), guarantee.total(c) / len(c.same)]
            for c in result.found if c.then is not None
        ],
        "refused": dict(result.refused),
    }  # fmt: skip


def _row(choice: Choice, guarantee: Guarantee) -> dict[str, Any]:
    return {
        "name": choice.name, "method": choice.method, "share": choice.share, "changed": choice.changed,
        "samples": len(choice.same), "threshold": choice.threshold, "again": choice.again, "first": choice.first,
        "then": choice.then, "loss": guarantee.total(choice) / len(choice.same),
        "seconds": None if choice.seconds is None else choice.seconds.to_plain(),
    }  # fmt: skip


def _undominated(found: Any, guarantee: Guarantee) -> list[Choice]:
    """Choices that none other beats in both counted cost and loss, from dear to cheap."""
    front: list[Choice] = []
    total = {id(choice): guarantee.total(choice) for choice in found}
    for choice in sorted(found, key=lambda c: (c.share, total[id(c)])):
        if not front or total[id(choice)] < total[id(front[-1])]:
            front.append(choice)
    return front[::-1]
