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
WHOLE = re.findall(
    r"\S+",
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't "
    "needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll "
    "somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's "
    "there'd there'd've there're there's they'd they'd've they'll they're they've wasn't we'd've we've weren't "
    "what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll "
    "why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're "
    "you've 'ow's'at 'twas",
)
"""Contractions that get a lost apostrophe back. Words of their own ('its', 'ill', 'were', 'im', 'shes') are not among
them, as in the rules."""
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word for word in WHOLE for place, mark in enumerate(word) if mark == "'"
} | {"somebody'd": "somebodyd"}  # the rules' own slip, kept because scores are compared with theirs
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
COMMA = re.compile(r"(?<=\d),(?=\d)")
PERIOD = re.compile(r"\.(?!\d)")  # '.5' keeps its point


def normal_answer(answer: str) -> str:
    """'The  Dogs, dont.' -> "dogs don't"; 'two' -> '2'; '1,000' -> '1000'; '3.5' stays."""
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    beside_space = {mark for mark in PUNCTUATION if f"{mark} " in text or f" {mark}" in text}
    numbers = COMMA.search(text) is not None
    for mark in PUNCTUATION:  # a mark next to a space only goes; one inside a word parts it
        text = text.replace(mark, "" if numbers or mark in beside_space else " ")
    text = PERIOD.sub("", text, count=32)  # the published rules stop after 32
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def soft_score(count: int) -> float:
    """Score of an answer that `count` of ten people gave: 0, 0.3, 0.6, 0.9, then 1.

    This is the official accuracy, the mean over the ten subsets of nine people of min(agreeing / 3, 1).
    """
    return min(3 * count, 10) / 10


def soft_scores(answers: Iterable[str]) -> dict[str, float]:
    """Answer -> score, for the ten answers of one question."""
    return {answer: soft_score(count) for answer, count in Counter(answers).items()}
