"""Soft accuracy among ten people's answers: VQAv2 and TextVQA, which differ in the normal form of an answer.

Sources: Antol et al., *VQA*, arXiv 1505.00468, and the rules at visualqa.org; Singh et al., *Towards VQA Models That
Can Read*, arXiv 1904.08920, whose evaluation server first drops commas and question marks and parts "'s".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...core.errors import DataError
from ...core.record import Sample
from ...data.vqa_words import normal_answer
from .base import Scorer, answers_of, mean, one_by_one

__all__ = ["TEXTVQA", "VQA", "soft_accuracy", "textvqa_answer"]


def soft_accuracy(answer: str, truths: Sequence[str], normal: Callable[[str], str] = normal_answer) -> float:
    """Accuracy of one answer in [0, 1]: the mean over the subsets that leave out one person of min(n / 3, 1).

    n: people of the subset who gave this answer, all answers in their normal form. For ten people this is 0, 0.3, 0.6,
    0.9, 1. The published script skips the normal form where all ten people gave the same answer letter by letter, so
    that 'Yes' is then wrong for 'yes'; lmms-eval and we do not.

    Raises:
        DataError: fewer than four people's answers (none, as in the test part, or a file with one answer a question):
            then no answer could be wholly right.
    """
    if len(truths) < 4:
        raise DataError(
            f"VQA accuracy needs several people's answers (the data sets have ten), not {len(truths)}. Give "
            "--score exact for questions with one answer."
        )
    wanted = normal(answer)
    hits = [normal(truth) == wanted for truth in truths]
    return sum(min((sum(hits) - hit) / 3, 1.0) for hit in hits) / len(hits)


def textvqa_answer(answer: str) -> str:
    """The normal form of TextVQA's evaluation server: \"Joe's, 1,000?\" -> \"joe 's 1000\"."""
    return normal_answer(answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip())


def _vqa(sample: Sample, answer: str) -> float:
    return soft_accuracy(answer, answers_of(sample))


def _textvqa(sample: Sample, answer: str) -> float:
    return soft_accuracy(answer, answers_of(sample), textvqa_answer)


VQA = Scorer("vqa", "VQAv2's soft accuracy among ten people", one_by_one(_vqa), mean(one_by_one(_vqa)))
TEXTVQA = Scorer("textvqa", "TextVQA's soft accuracy, ten people", one_by_one(_textvqa), mean(one_by_one(_textvqa)))
