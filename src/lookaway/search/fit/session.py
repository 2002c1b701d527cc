"""One fit from samples to a certified policy: what the command line, and a script of one's own, go through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ...anatomy.base import Anatomy
from ...core.decision import Policy
from ...core.errors import SettingsError
from ...engine.attached import policy_layers
from ..trials.queue import TrialQueue
from .best import BestSoFar
from .candidates import FULL, Candidate, candidates, first_layer
from .certify import Certificate, Tested, certify, ladder
from .choices import Choice, choices, measured
from .guarantee import Guarantee
from .halving import parts_of, survivors
from .options import BEFORE_DECODER, FitOptions
from .outcomes import Outcomes
from .sample_runs import SampleRuns
from .seconds import Seconds
from .timed import Timed, with_seconds, worth_timing
from .trials import SplitTrials

__all__ = ["FitEvents", "FitResult", "fit", "needs", "possible"]


@dataclass(frozen=True)
class FitResult:
    """What came of a fit."""

    policy: Policy | None
    """The certified policy; None: no policy passed."""
    chosen: Choice | None
    """The same on the search split."""
    certificate: Certificate
    found: tuple[Choice, ...]
    """Everything that was judged on the whole search split."""
    dropped: tuple[Choice, ...]
    """Policies of one pass that did not go on to all samples, as they did on those that they saw."""
    order: tuple[Choice, ...]
    """The order in which policies were to be tested."""
    confirmed: Seconds | None
    """The certified policy timed again, on the certification split; None: seconds were not asked for."""
    refused: Mapping[str, str]
    """Candidates that this model cannot run, and why."""
    timed: tuple[Choice, ...] = ()
    """What was timed on the search split, the slower than the full model too; none where seconds are not minimised."""


@dataclass(frozen=True)
class FitEvents:
    """What a fit tells while it runs."""

    on_tried: Callable[[str, Outcomes], object] = lambda key, found: None
    """After each policy of one pass: its key, and what it did on all samples so far."""
    on_refused: Callable[[str, str], object] = lambda key, why: None
    """After a policy that the model cannot run: its key, and the reason."""
    on_best: Callable[[Choice, Policy], object] = lambda choice, policy: None
    """A better policy than before on the samples so far, cheaper than the full model; not certified."""
    on_part: Callable[[int, int, range], object] = lambda number, kept, samples: None
    """Before each part of the search: its number, how many policies of one pass it runs, and on which samples: outcomes
    are told of all of them up to its last."""
    on_none: Callable[[int], object] = lambda samples: None
    """After a part in which nothing cheaper than the full model kept the answers, on so many samples."""
    on_order: Callable[[int], object] = lambda policies: None
    """Before the tests: how many policies may be tested, one after the other."""
    on_test: Callable[[Tested], object] = lambda tested: None
    """After each test."""


def needs(tried: Sequence[Candidate], anatomy: Anatomy) -> dict[str, Any]:
    """What `SampleRuns` must keep for these candidates: `start` and `vision`."""
    depth = anatomy.num_layers
    early = any(first_layer(c.policy, depth) < anatomy.first_prunable_layer for c in tried)
    return {"start": 0 if early else anatomy.first_prunable_layer,
            "vision": anatomy.vision is not None and any(c.policy.needs_vision() for c in tried)}  # fmt: skip


def possible(anatomy: Anatomy, options: FitOptions) -> FitOptions:
    """The options with the methods that this decoder allows: where tokens may leave before it only, those alone.

    Raises:
        UnsupportedModel: none of the methods chooses before the decoder, and it is such a decoder.
    """
    if anatomy.only_before and BEFORE_DECODER not in options.methods:
        anatomy.require_inside(f"lookaway fit with --methods {' '.join(options.methods)}")
    return replace(options, methods=(BEFORE_DECODER,)) if anatomy.only_before else options


def fit(
    anatomy: Anatomy,
    search: Callable[[range, Mapping[str, Any]], SampleRuns],
    samples: int,
    certification: Callable[[Mapping[str, Any]], SampleRuns],
    options: FitOptions,
    queue: TrialQueue,
    own: Mapping[str, Policy] | None = None,
    guarantee: Guarantee | None = None,
    behind: Mapping[str, Policy] | None = None,
    time_search: Timed | None = None,
    time_certification: Timed | None = None,
    events: FitEvents | None = None,
    timing: Mapping[str, Any] | None = None,
) -> FitResult:
    """Find the cheapest policy that keeps the answers.

    Args:
        search: makes the runs of some of the search split's samples; nothing of it is used again.
        samples: of the search split.
        certification: makes the runs of the certification split, one question an image; called once the order of
            testing is fixed.
        queue: where trials are shared and kept; with its storage an interrupted fit goes on from there.
        own: further policies to try, by name.
        guarantee: None: unchanged answers, at the options' epsilon and delta.
        behind: reductions with exit gates that were trained behind them on the search split, by name.
        time_search, time_certification: measure seconds on samples of the one and of the other split.
        timing: what these seconds depend on beside the policies, such as the machine and the rows of a batch: they are
            measured once for each of its values. The queue's other trials do not depend on it.

    Raises:
        SettingsError: the space is empty or does not fit the model.
    """
    options = possible(anatomy, options)
    events, guarantee = events or FitEvents(), guarantee or Guarantee(options.epsilon, options.delta)
    for mine in [*(own or {}).values(), *(behind or {}).values()]:
        policy_layers(mine, anatomy, looks_again=True, grows=True)  # refuses in the words of la.attach
    depth, first = anatomy.num_layers, anatomy.first_prunable_layer
    tried = candidates(depth, first, options, own, anatomy.vision is not None, behind)
    if anatomy.has_windows and options.methods == ("second-look",):
        raise SettingsError(
            "A second look is not possible on a decoder with sliding-window layers. Name other --methods: "
            "before-decoder, reduction, two-reductions, shapes, exit."
        )
    kept = needs(tried, anatomy)
    # 1. Policies of one pass on ever more samples; of each part the better half goes on.
    found = _search(anatomy, tried, lambda part: search(part, kept), samples, options, guarantee, queue, events)
    # 2. The order of testing, from that alone; in seconds, where those count.
    by_key = {candidate.key: candidate for candidate in tried}
    made = found.made
    ranked, timed = made, list[Choice]()
    if options.minimised == "seconds":
        if time_search is None:
            raise SettingsError("Seconds are to be minimised, and nothing measures them (time_search).")
        ranked = timed = with_seconds(
            worth_timing(made, guarantee), by_key, options, queue, "seconds", time_search, timing
        )
    order = ladder(ranked, guarantee)
    events.on_order(len(order))
    # 3. The test, on samples that nothing else has seen.
    trials = SplitTrials(tried, queue, "certification", lambda: certification(kept))

    def measure(choice: Choice) -> Choice | None:
        known = trials.run(list(choice.keys), events.on_refused)
        if not trials.refused.keys().isdisjoint(choice.keys):
            return None
        again = measured(choice, by_key, known, trials.full, anatomy.shape, options)
        return again if choice.seconds is None else replace(again, share=choice.share, seconds=choice.seconds)

    def enough(choice: Choice) -> bool:
        return options.speedup is not None and choice.seconds is not None and (
            choice.seconds.quartiles[0] >= options.speedup
        )  # fmt: skip

    try:
        certificate = certify(order, measure, guarantee, events.on_test, enough)
    finally:
        trials.close()
    chosen = confirmed = policy = None
    if certificate.passed is not None:
        chosen = next(c for c in order if c.name == certificate.passed.choice.name)
        policy = chosen.policy(by_key, options)
        if time_certification is not None and options.minimised == "seconds":
            confirmed = with_seconds([chosen], by_key, options, queue, "confirmed", time_certification, timing)[
                0
            ].seconds
    return FitResult(
        policy, chosen, certificate, tuple(made), tuple(found.dropped), tuple(order), confirmed,
        {**found.refused, **trials.refused}, tuple(timed),
    )  # fmt: skip


@dataclass
class _Found:
    made: list[Choice]
    dropped: list[Choice]
    refused: dict[str, str]


def _search(
    anatomy: Anatomy, tried: Sequence[Candidate], runs: Callable[[range], SampleRuns], samples: int,
    options: FitOptions, guarantee: Guarantee, queue: TrialQueue, events: FitEvents,
) -> _Found:  # fmt: skip
    left, known, full = list(tried), dict[str, Outcomes](), None
    found = _Found([], [], {})
    parts = parts_of(samples, options.halvings)
    for number, part in enumerate(parts):
        events.on_part(number, sum(c.key != FULL for c in left), part)
        trials = SplitTrials(tried, queue, f"search/{number}" if number else "search", partial(runs, part))
        try:
            full = trials.full if full is None else full.followed_by(trials.full)
            best = BestSoFar(left, full, anatomy.shape, options, guarantee, trials.second_look_from)

            def done(key: str, outcome: Outcomes, best: BestSoFar = best) -> None:
                known[key] = known[key].followed_by(outcome) if key in known else outcome
                if key != FULL:
                    events.on_tried(key, known[key])
                if best.add(key, known[key]):
                    assert best.best is not None
                    events.on_best(best.best, best.best.policy(best.by_key, options))

            trials.run([candidate.key for candidate in left], events.on_refused, done)
            if best.best is None:
                events.on_none(part.stop)
            second_look_from = trials.second_look_from
        finally:
            trials.close()
        found.refused |= trials.refused
        left = [candidate for candidate in left if candidate.key not in found.refused]
        found.made = choices(left, known, full, anatomy.shape, options, second_look_from)
        if number + 1 < len(parts):
            stay = set(survivors(found.made, [candidate.key for candidate in left], guarantee))
            found.dropped += [c for c in found.made if c.then is None and c.first not in stay]
            left = [candidate for candidate in left if candidate.key in stay]
    if all(candidate.key == FULL for candidate in left):
        raise SettingsError("This model can run no policy of the space: " + " ".join(found.refused.values()))
    return found
