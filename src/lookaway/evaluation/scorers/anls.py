"""Average normalised Levenshtein similarity: DocVQA, InfoVQA, ST-VQA.

Source: Biten et al., *Scene Text Visual Question Answering*, arXiv 1905.13648, eq. 1, with the threshold 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...core.record import Sample
from .base import Scorer, answers_of, mean, one_by_one

__all__ = ["ANLS", "anls", "edit_distance"]

THRESHOLD = 0.5


def edit_distance(first: str, second: str) -> int:
    """Fewest insertions, deletions and replacements of one character that make `second` of `first`."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            above, row[j] = row[j], min(above + (a != b), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def anls(answer: str, truths: Sequence[str]) -> float:
    """Similarity to the nearest truth in [0, 1]; below one half it is 0.

    Case and repeated spaces do not count for the distance. The length that divides it is that of the longer text as it
    stands, upper-cased, spaces and all: so do the public scripts, and a padded answer is thereby judged more mildly.
    """
    said = " ".join(answer.lower().split())
    best = 0.0
    for truth in truths:
        length = max(len(truth.upper()), len(answer.upper()))
        distance = edit_distance(" ".join(truth.lower().split()), said)
        best = max(best, 1 - distance / length if length else 1.0)
    return best if best >= THRESHOLD else 0.0


def _anls(sample: Sample, answer: str) -> float:
    return anls(answer, answers_of(sample))


ANLS = Scorer("anls", "average normalised Levenshtein similarity", one_by_one(_anls), mean(one_by_one(_anls), "anls"))
