"""How VQA compares answers: the normal form of an answer, and its soft score among ten people's.

Source: Antol et al., *VQA*, arXiv 1505.00468, and the evaluation rules at visualqa.org: lower case, no articles, number
words as digits, punctuation away, apostrophes of contractions back.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

__all__ = ["normal_answer", "soft_score", "soft_scores"]

ARTICLES = {"a", "an", "the"}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(i) for i, word in enumerate(DIGITS)} | {"none": "0"}
ENDINGS = {
    # "ill", "id", "well", "shell", "were", "wed", "hell" and "its" are words of their own and stay as they are
    "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
    "'ve": "could might must should would i you we they who",
    "'s": "he that there what when where who how she here",
    "'re": "you they who what there",
    "'ll": "you they it that there who what how",
    "'d": "you they who that there how he it",
    "'m": "i",
    "'all": "y",
    "'am": "ma",
    "'clock": "o",
}
WHOLE = [f"{word}{end}" for end, words in ENDINGS.items() for word in words.split()]
CONTRACTIONS = {word.replace("'", ""): word for word in WHOLE}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
COMMA = re.compile(r"(?<=\d),(?=\d)")
PERIOD = re.compile(r"(?<!\d)\.|\.(?!\d)")


def normal_answer(answer: str) -> str:
    """'The  Dogs, dont.' -> "dogs don't"; 'two' -> '2'; '1,000' -> '1000'; '3.5' stays."""
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    beside_space = {mark for mark in PUNCTUATION if f"{mark} " in text or f" {mark}" in text}
    numbers = COMMA.search(text) is not None
    for mark in PUNCTUATION:  # a mark next to a space only goes; one inside a word parts it
        text = text.replace(mark, "" if numbers or mark in beside_space else " ")
    words = (NUMBERS.get(word, word) for word in PERIOD.sub("", text).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def soft_score(count: int) -> float:
    """Score of an answer that `count` of ten people gave: 0, 0.3, 0.6, 0.9, then 1.

    This is the official accuracy, the mean over the ten subsets of nine people of min(agreeing / 3, 1).
    """
    return min(3 * count, 10) / 10


def soft_scores(answers: Iterable[str]) -> dict[str, float]:
    """Answer -> score, for the ten answers of one question."""
    return {answer: soft_score(count) for answer, count in Counter(answers).items()}
