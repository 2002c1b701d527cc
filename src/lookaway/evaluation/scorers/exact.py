"""One right answer, compared letter by letter after a normal form: our own rule, and GQA's."""

from __future__ import annotations

import string

from ...core.record import Sample
from ..scoring import is_right
from .base import Scorer, answers_of, mean, one_by_one

__all__ = ["EXACT", "GQA", "gqa_match"]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def gqa_match(answer: str, truth: str) -> bool:
    """lmms-eval's rule for GQA: equal after lower-casing and dropping all ASCII punctuation ('t-shirt' = 'tshirt').

    Articles count, so 'a cat' is not 'cat' (Hudson and Manning, *GQA*, arXiv 1902.09506, compare letter by letter).
    """
    first, second = (text.lower().translate(_NO_PUNCTUATION) for text in (answer, truth))
    return first == second


def _exact(sample: Sample, answer: str) -> float:
    return float(any(is_right(answer, truth) for truth in _accepted(sample)))


def _gqa(sample: Sample, answer: str) -> float:
    return float(any(gqa_match(answer, truth) for truth in _accepted(sample)))


def _accepted(sample: Sample) -> tuple[str, ...]:
    """Each of a sample's answers is as good as another, and so is the one that it names as its answer."""
    return answers_of(sample) if sample.answer is None else (*answers_of(sample), sample.answer)


EXACT = Scorer(
    "exact", "exact match after lookaway's normal form", one_by_one(_exact), mean(one_by_one(_exact)), binary=True
)
GQA = Scorer(
    "gqa", "GQA: exact match without case and punctuation", one_by_one(_gqa), mean(one_by_one(_gqa)), binary=True
)
