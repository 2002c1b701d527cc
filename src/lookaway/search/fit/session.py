"""One fit from samples to a certified policy: what the command line, and a script of one's own, go through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.decision import Policy
from ...core.errors import SettingsError
from ..trials.queue import Done, Job, Range, TrialQueue
from .candidates import Candidate, candidates
from .certify import Certificate, Tested, certify, ladder
from .choices import Choice, choices, measured
from .options import FitOptions
from .outcomes import Outcomes, SampleRuns

__all__ = ["FitResult", "fit"]


@dataclass(frozen=True)
class FitResult:
    """What came of a fit."""

    policy: Policy | None
    """The certified policy; None: no policy passed."""
    chosen: Choice | None
    """The same on the search split."""
    certificate: Certificate
    found: tuple[Choice, ...]
    """Everything that was judged on the search split."""
    order: tuple[Choice, ...]
    """The order in which policies were to be tested."""


def fit(
    search: SampleRuns,
    certification: Callable[[], SampleRuns],
    options: FitOptions,
    queue: TrialQueue,
    own: Mapping[str, Policy] | None = None,
    on_done: Callable[[Done], object] = lambda done: None,
    on_order: Callable[[Sequence[Choice]], object] = lambda order: None,
    on_test: Callable[[Tested], object] = lambda tested: None,
) -> FitResult:
    """Find the cheapest policy that keeps the answers.

    Args:
        search: the search split; nothing of it is used again.
        certification: makes the runs of the certification split, one question an image; called once the order of
            testing is fixed.
        queue: where trials are shared and kept; with its storage an interrupted fit goes on from there.
        own: further policies to try, by name.
        on_done, on_order, on_test: called after each trial, when the order is known, and after each test.

    Raises:
        SettingsError: the space is empty or does not fit the model.
    """
    anatomy = search.anatomy
    tried = candidates(anatomy.num_layers, anatomy.first_prunable_layer, options, own)
    by_key = {candidate.key: candidate for candidate in tried}
    if search.second_look_from > anatomy.num_layers and options.methods == ("second-look",):
        raise SettingsError(
            "A second look is not possible on a decoder with sliding-window layers. Name other --methods: "
            "reduction, two-reductions, exit."
        )
    # 1. Every policy of one pass on the search split.
    done = _Trials(tried, queue, "search").run(search, list(by_key), on_done)
    made = choices(tried, done, search.full, anatomy.shape, options, search.second_look_from)
    # 2. The order of testing, from that alone.
    order = ladder(made, options.epsilon, options.delta)
    on_order(order)
    # 3. The test, on samples that nothing else has seen.
    runs = certification() if order else None
    trials = _Trials(tried, queue, "certification")

    def measure(choice: Choice) -> Choice:
        assert runs is not None
        known = trials.run(runs, [key for key in (choice.first, choice.then) if key is not None])
        return measured(choice, by_key, known, runs.full, anatomy.shape, options.cost)

    try:
        certificate = certify(order, measure, options.epsilon, options.delta, on_test)
    finally:
        if runs is not None:
            runs.close()
    chosen = None
    if certificate.passed is not None:
        chosen = next(c for c in order if c.name == certificate.passed.choice.name)
    policy = None if chosen is None else chosen.policy(by_key, options)
    return FitResult(policy, chosen, certificate, tuple(made), tuple(order))


class _Trials:
    """Trials of single candidates on one split; each is run once, by whichever worker comes first."""

    def __init__(self, tried: Sequence[Candidate], queue: TrialQueue, split: str) -> None:
        self.tried, self.queue, self.split = tried, queue, split
        self.known: dict[str, Outcomes] = {}

    def run(
        self, runs: SampleRuns, keys: Sequence[str], on_done: Callable[[Done], object] = lambda done: None
    ) -> dict[str, Outcomes]:
        """Candidate key -> outcomes, of all keys that were asked for so far."""
        number = {candidate.key: index for index, candidate in enumerate(self.tried)}
        jobs = [Job(f"{self.split}/{key}", {"candidate": number[key]}) for key in keys if key not in self.known]

        def evaluate(params: Mapping[str, Any]) -> tuple[float, Mapping[str, Any]]:
            found = runs.outcomes(self.tried[int(params["candidate"])].policy)
            return float(found.same.mean()), found.to_plain()

        space = {"candidate": Range(0, max(len(self.tried) - 1, 1), integer=True)}
        for done in self.queue.run(jobs, evaluate, space, self.split, on_done):
            self.known[done.key.removeprefix(f"{self.split}/")] = Outcomes.from_plain(done.details)
        return self.known
