"""Official scores of paired results: one score a question with and without the policy, and both tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.record import Sample
from .runner import PairedResult
from .scorers import Scorer

__all__ = ["PairedScores", "own_and_truth", "score_pairs"]


@dataclass(frozen=True)
class PairedScores:
    """What a task's scorer says of the answers with and without the policy, in the order of the results."""

    scorer: str
    with_policy: Sequence[float | None]
    """One score a question; None where it has no answer to score by."""
    without: Sequence[float | None]
    totals: dict[str, float]
    """The task's own table with the policy, e.g. {'accuracy': .87, 'f1': .86, 'yes_ratio': .51}."""
    totals_without: dict[str, float]


def score_pairs(scorer: Scorer, samples: Sequence[Sample], results: Sequence[PairedResult]) -> PairedScores:
    """Score the results whose samples have an answer; `samples` are theirs, in any order and perhaps more.

    Raises:
        DataError: the task's table cannot be made of these samples.
    """
    by_id = {sample.id: sample for sample in samples}
    scored = [result for result in results if by_id[result.id].answer is not None]
    own = [by_id[result.id] for result in scored]
    answers, answers_without = [r.answer_with for r in scored], [r.answer_without for r in scored]

    def each(found: Sequence[float]) -> list[float | None]:
        scores = {result.id: score for result, score in zip(scored, found, strict=True)}
        return [scores.get(result.id) for result in results]

    return PairedScores(
        scorer=scorer.name,
        with_policy=each(scorer.scores(own, answers)),
        without=each(scorer.scores(own, answers_without)),
        totals=scorer.totals(own, answers),
        totals_without=scorer.totals(own, answers_without),
    )


def own_and_truth(
    scorer: Scorer, samples: Sequence[Sample], results: Sequence[PairedResult]
) -> dict[str, tuple[float, float]]:
    """Sample id -> score of the full model's answer, and of the truth itself; all samples have an answer."""
    said = {result.id: result.answer_without for result in results}
    own = scorer.scores(samples, [said[sample.id] for sample in samples])
    truth = scorer.scores(samples, [str(sample.answer) for sample in samples])
    return {sample.id: pair for sample, pair in zip(samples, zip(own, truth, strict=True), strict=True)}
