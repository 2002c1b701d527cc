"""What a scorer of a public task is: a score for every answer, and the figures of the task's own table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...core.errors import DataError
from ...core.record import Sample

__all__ = ["Scorer", "answers_of", "mean", "one_by_one"]

Scores = Callable[[Sequence[Sample], Sequence[str]], list[float]]
Totals = Callable[[Sequence[Sample], Sequence[str]], dict[str, float]]


@dataclass(frozen=True)
class Scorer:
    """The official way to score one kind of task."""

    name: str
    about: str
    """One line: what is computed, and whose rule it is."""
    scores: Scores
    """(samples, answers) -> one score a sample, mostly in [0, 1]; its mean is the task's headline figure."""
    totals: Totals
    """(samples, answers) -> the figures that the task's authors print, by name."""
    binary: bool = False
    """A score is 0 or 1, never anything between."""


def one_by_one(score: Callable[[Sample, str], float]) -> Scores:
    """Scores of a rule that looks at one answer at a time."""

    def scores(samples: Sequence[Sample], answers: Sequence[str]) -> list[float]:
        return [score(sample, answer) for sample, answer in zip(samples, answers, strict=True)]

    return scores


def mean(scores: Scores, name: str = "accuracy") -> Totals:
    """The mean score as the task's only figure."""

    def totals(samples: Sequence[Sample], answers: Sequence[str]) -> dict[str, float]:
        found = scores(samples, answers)
        return {name: sum(found) / len(found)} if found else {}

    return totals


def answers_of(sample: Sample) -> tuple[str, ...]:
    """All accepted answers of a sample: `meta["answers"]` where its data has several, else its one answer.

    Raises:
        DataError: it has none.
    """
    several = tuple(map(str, sample.meta.get("answers") or ()))
    if several:
        return several
    if sample.answer is None:
        raise DataError(f"Sample {sample.id!r} has no answer, so it cannot be scored.")
    return (sample.answer,)
