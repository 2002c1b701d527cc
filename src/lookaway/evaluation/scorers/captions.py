"""CIDEr of captions, through the scorer of the package `pycocoevalcap`, without Java.

Source: Vedantam et al., *CIDEr*, arXiv 1411.5726. The published pipeline cuts captions into words by a Java program
(Stanford's Penn Treebank tokenizer). `words` does the same in Python for what captions hold; where it differs is listed
with its test, and the score itself is the package's own code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...core.errors import MissingDependency
from ...core.record import Sample
from .base import Scorer, answers_of, mean

__all__ = ["CIDER", "cider", "words"]


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr (the -D variant of the public package) of each caption, in [0, 10]; their mean is the corpus' score.

    Args:
        captions: one an image.
        references: of each image its reference captions. How rare a word is, is counted over all of them, so the score
            of one caption depends on the others' references; with a single image every score is 0.

    Raises:
        MissingDependency: pycocoevalcap is not installed.
    """
    try:
        from pycocoevalcap.cider.cider_scorer import CiderScorer
    except ImportError:
        raise MissingDependency.of("pycocoevalcap", "captions") from None
    if not captions:
        return []
    scorer = CiderScorer(n=4, sigma=6.0)
    for caption, several in zip(captions, references, strict=True):
        scorer += (words(caption), [words(reference) for reference in several])
    return [float(score) for score in scorer.compute_score()[1]]


def words(caption: str) -> str:
    """A caption's words in lower case, parted by spaces, punctuation away: "A dog's ball." -> "a dog 's ball"."""
    text = caption.lower().translate(_QUOTES)
    found: list[str] = []
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in _DROPPED or set(token) == {"."}:
            continue
        found.append(_RENAMED.get(token, token))
    return " ".join(found)


_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": ".", "£": "#", "€": "$"})
_RENAMED = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "cannot": "can not", "gonna": "gon na", "wanna": "wan na", "gotta": "got ta", "gimme": "gim me", "lemme": "lem me",
}  # fmt: skip
"""Brackets stay: the published list of punctuation names them in capitals, and captions are lower case by then."""
_DROPPED = {"'", '"', "`", "-", "--", "---", ".", "?", "!", ",", ":", ";"}
_SHORT = (
    "mr|mrs|ms|dr|prof|jr|sr|st|ave|blvd|rd|lt|col|gen|gov|capt|sgt|rev|inc|ltd|co|corp|etc|vs|"
    "jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec"
)
_TOKEN = re.compile(
    rf"""
    https?://\S+ | [\w.+-]+@[\w-]+\.[\w.-]*\w      # addresses
  | [\#@][^\W\d]\w*                                  # a tag or a name
  | (?:[^\W\d_]\.)+(?:[^\W\d_](?!\w))?              # u.s., a.m., and a single letter with its period
  | (?:ph\.d|no(?=\.\s*\d))\. | (?:{_SHORT})\.            # abbreviations keep their period
  | o'clock | ma'am | '\d\ds                        # an apostrophe that parts nothing
  | \w+(?=n't\b) | n't\b | '(?:s|re|ve|ll|d|m)\b   # does n't, it 's
  | [\w+]*\w(?:\+\+|\#)                             # c++, c#
  | \d+(?:[.,:/]\d+)+                               # 1,000  3.5  10:30  1/2
  | \w+(?:[-&_/.]\w+)*                              # words, with what joins them
  | \.+ | [?!]+ | -+ | \S
    """,
    re.VERBOSE,
)


def _cider(samples: Sequence[Sample], answers: Sequence[str]) -> list[float]:
    return cider(answers, [answers_of(sample) for sample in samples])


CIDER = Scorer("cider", "CIDEr of captions", _cider, mean(_cider, "cider"), most=10.0, alone=False)
