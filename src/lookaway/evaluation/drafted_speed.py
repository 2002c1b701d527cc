"""Answers with a draft, for the rounds in which all else is timed: under which policy, by what, and what was accepted.

A draft is attached around each of its runs, and that is not timed: a twig is copied from the model's layers then, once
for as many answers as follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..core.decision import Policy
from ..core.draft import Draft
from ..engine.api import attach
from ..policies.fixed import KeepAll
from .latency import Timing
from .speed_row import SpeedRow

__all__ = ["DraftedAnswer", "drafted_answers"]


class DraftedAnswer:
    """One variant of a 'decode' part.

    Args:
        by: what its record calls the draft.
        policy: None: without one.
        run: generates the answer of `length` tokens.
        same: the answer is the one without the draft.
    """

    def __init__(
        self, model: Any, by: str, draft: Draft, policy: Policy | None, run: Callable[[], Any], length: int
    ) -> None:
        self._model, self._by, self._draft, self._run, self._length = model, by, draft, run, length
        self._policy = policy or KeepAll()
        self._trace: Any = None
        self.same = True

    @contextmanager
    def attached(self) -> Iterator[None]:
        with attach(self._model, self._policy, draft=self._draft) as run:
            yield
            self._trace = run.trace

    def __call__(self) -> Any:
        return self._run()

    def row(self, name: str, bare: Timing, found: Timing) -> SpeedRow:
        """Its line, from its seconds and those of the bare model."""
        trace = self._trace
        return replace(
            SpeedRow.of(name, "decode", bare, found, trace),
            new_tokens=self._length, tokens_per_second=self._length / found.median,
            baseline_tokens_per_second=self._length / bare.median, draft=self._by, drafted=trace.drafted,
            accepted=trace.accepted, acceptance=trace.acceptance, same_answer=self.same,
        )  # fmt: skip


def drafted_answers(
    model: Any,
    policies: Mapping[str, Policy],
    drafts: Mapping[str, Draft],
    inputs: Mapping[str, Tensor],
    length: int,
    run: Callable[[], Tensor],
) -> dict[str, DraftedAnswer]:
    """Every draft without a policy and under each, by name; each has run once and was held against its answer without.

    Args:
        inputs: of the timed prompt, one row.
        run: generates the answer of `length` tokens greedily: ids [1, S + length].

    Raises:
        UnsupportedModel, SettingsError: a draft does not fit this model, or `inputs` have several rows.
    """
    found: dict[str, DraftedAnswer] = {}
    under: dict[str, Policy | None] = {"": None, **{f"{name}, ": policy for name, policy in policies.items()}}
    for prefix, policy in under.items() if drafts else ():
        with torch.no_grad(), nullcontext() if policy is None else attach(model, policy):
            plain = run()
        for by, draft in drafts.items():
            one = DraftedAnswer(model, by, draft, policy, run, length)
            with torch.no_grad(), one.attached():
                one.same = torch.equal(one(), plain)
            found[f"{prefix}{by}"] = one
    return found
