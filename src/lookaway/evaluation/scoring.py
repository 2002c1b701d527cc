"""When is an answer right, and when are two answers the same? Pure functions on text."""

from __future__ import annotations

import re

from ..core.errors import DataError
from ..core.record import Sample

__all__ = ["is_right", "normalise", "require_answers", "same_answer"]


def normalise(answer: str) -> str:
    """Lower case, without outer punctuation, articles and double spaces: 'A red  circle.' -> 'red circle'."""
    words = re.sub(r"[^\w\s'./:-]", " ", answer.lower()).split()
    stripped = [word.strip("'./:-") for word in words]
    return " ".join(word for word in stripped if word and word not in ("a", "an", "the"))


def same_answer(first: str, second: str) -> bool:
    """Agreement with the unpruned model: the texts are equal but for outer white space."""
    return first.strip() == second.strip()


def is_right(answer: str, truth: str | None) -> bool | None:
    """Exact match after normalising; None where there is no ground truth.

    A truth that normalises to nothing ('a', '.') is compared as it stands.
    """
    if truth is None:
        return None
    wanted = normalise(truth)
    if not wanted:
        return answer.strip().lower() == truth.strip().lower()
    return normalise(answer) == wanted


def require_answers(samples: list[Sample]) -> None:
    """Raise DataError unless every sample has a ground truth."""
    missing = [sample.id for sample in samples if sample.answer is None]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(samples)} samples have no answer (first: {missing[0]!r}), so accuracy cannot be "
            "scored. Give answers, or ask for agreement only: --score agreement."
        )
