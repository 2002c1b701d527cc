"""When is an answer right, and when are two answers the same? Pure functions on text."""

from __future__ import annotations

import re

from ..core.errors import DataError
from ..core.record import Sample
from ..data.scienceqa import parse_answer

__all__ = ["is_right", "normalise", "require_an_answer", "require_answers", "same_answer"]

_MINUS = re.compile(r"(?<!\S)[\u2212\u2013](?=[.\d])")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_APART = re.compile(r"[^\w\s'./:+#%$€£°-]")
_NUMBER = re.compile(r"(?P<sign>[+-]?)(?P<whole>\d*)(?P<rest>\.\d+)?(?P<unit>[%°]*)")
_LETTER = re.compile(r"[A-Za-z]")


def normalise(answer: str) -> str:
    """The form in which answers are compared: 'A red  circle.' -> 'red circle'.

    - lower case, single spaces, no articles, no punctuation around a word;
    - marks inside a word stay (t-shirt, 10:30, n/a), and so do C++ and C#;
    - a number keeps its sign and its point: '-5' is not '5', '.5' is '0.5' and not '5'; '+5' and '5.' are '5', '1,000'
      is '1000', and '50%' is not '50'.
    """
    text = _APART.sub(" ", _THOUSANDS.sub("", _MINUS.sub("-", answer.lower())))
    words = (_word(word) for word in text.split())
    return " ".join(word for word in words if word and word not in ("a", "an", "the"))


def same_answer(first: str, second: str) -> bool:
    """Agreement with the unpruned model: the texts are equal but for outer white space."""
    return first.strip() == second.strip()


def is_right(answer: str, truth: str | None) -> bool | None:
    """Exact match after normalising; None where there is no ground truth.

    A truth that is one letter is the letter of a choice: 'A.', '(A)', 'A) red' and 'The answer is A.' all say 'A', as
    `data.scienceqa.parse_answer` reads them. A truth that normalises to nothing ('the', '.') is compared as it stands.
    """
    if truth is None:
        return None
    if _LETTER.fullmatch(truth.strip()):
        return parse_answer(answer, 26) == truth.strip().upper()
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


def require_an_answer(samples: list[Sample]) -> list[Sample]:
    """The samples that have a ground truth.

    Raises:
        DataError: none has.
    """
    found = [sample for sample in samples if sample.answer is not None]
    if not found:
        raise DataError(
            f"None of the {len(samples)} samples has an answer, so accuracy cannot be scored. Give answers, or ask for "
            "agreement with the unpruned model only: --score agreement."
        )
    return found


def _word(word: str) -> str:
    """One word without the punctuation around it; numbers in one spelling."""
    number = _NUMBER.fullmatch(word.rstrip("'./:-+"))
    if number and (number["whole"] or number["rest"]):
        whole = number["whole"] or "0"
        return f"{number['sign'].replace('+', '')}{whole}{number['rest'] or ''}{number['unit']}"
    word = word.lstrip("'./:-+").rstrip("'./:-")
    return word if re.fullmatch(r"\w+\+\+", word) else word.rstrip("+")
