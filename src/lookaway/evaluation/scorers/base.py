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
    """(samples, answers) -> one score a sample, in [0, `most`]; its mean is the task's headline figure."""
    totals: Totals
    """(samples, answers) -> the figures that the task's authors print, by name."""
    binary: bool = False
    """A score is 0 or 1, never anything between."""
    most: float = 1.0
    """The best that one answer can score."""
    alone: bool = True
    """A score depends on nothing but its own sample and answer."""

    def right(self, sample: Sample, answer: str) -> bool | None:
        """Whether an answer has the full score; None where there is no truth, or where scores depend on others'."""
        if sample.answer is None or not self.alone:
            return None
        return self.scores([sample], [answer])[0] >= self.most


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

    With ten people's answers the score depends on how many gave each, so a sample's `answer` is not added to them.

    Raises:
        DataError: it has none.
    """
    several = tuple(map(str, sample.meta.get("answers") or ()))
    if several:
        return several
    if sample.answer is None:
        raise DataError(f"Sample {sample.id!r} has no answer, so it cannot be scored.")
    return (sample.answer,)
