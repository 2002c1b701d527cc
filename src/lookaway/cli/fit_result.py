"""What `lookaway fit` says of its result, and the record that reports read (docs/records.md, kind 'fit')."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .fit_reasons import what_was_lost

if TYPE_CHECKING:
    from ..search.fit.certify import Tested
    from ..search.fit.choices import Choice
    from ..search.fit.guarantee import Guarantee
    from ..search.fit.options import FitOptions
    from ..search.fit.session import FitResult

__all__ = ["result_line", "summary_of", "test_line", "what_next"]

UNITS = {"flops": "prefill FLOPs of the decoder", "kv": "KV-cache entries", "seconds": "seconds"}


def test_line(tested: Tested, guarantee: Guarantee) -> str:
    """One line on one test."""
    verdict = "passes" if tested.bound <= guarantee.epsilon else "fails"
    return (
        f"{verdict}: {tested.choice.name}: {tested.choice.share:.1%} of the cost, "
        f"{what_was_lost(tested.choice, guarantee)}, bound {tested.bound:.2%}"
    )


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
        if timed["looks"]:
            each = ", ".join(f"{1000 * seconds:.0f} ms where {_rows(n)}" for n, seconds in timed["looks"])
            text += f" A batch waits for its slowest row: {each}."
    return text


def _rows(looking: int) -> str:
    return "no row looks again" if not looking else f"{looking} {'row looks' if looking == 1 else 'rows look'} again"


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
