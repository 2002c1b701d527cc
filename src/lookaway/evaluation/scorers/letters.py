"""Multiple choice: the answer is a letter."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.errors import DataError
from ...core.record import Sample
from ...data.scienceqa import parse_answer
from ..task_scores import scienceqa_accuracy
from .base import Scorer, answers_of, mean, one_by_one

__all__ = ["LETTERS", "SCIENCEQA"]


def _letter(sample: Sample, answer: str) -> float:
    choices = sample.meta.get("choices", 26)
    truths = [parse_answer(truth, choices) for truth in answers_of(sample)]
    if None in truths:
        raise DataError(
            f"The answer of sample {sample.id!r} is {answers_of(sample)[truths.index(None)]!r}, and not the letter of "
            "a choice. Give letters (A, B, ...) as answers, or take --score exact."
        )
    return float(parse_answer(answer, choices) in truths)


def _table(samples: Sequence[Sample], answers: Sequence[str]) -> dict[str, float]:
    texts = {sample.id: answer for sample, answer in zip(samples, answers, strict=True)}
    table = scienceqa_accuracy(samples, texts)
    return {name: value for name, value in table.items() if value is not None}


LETTERS = Scorer(
    "letters", "the letter of the right choice", one_by_one(_letter), mean(one_by_one(_letter)), binary=True
)
SCIENCEQA = Scorer(
    "scienceqa", "ScienceQA's table: subjects, contexts, grades", one_by_one(_letter), _table, binary=True
)
