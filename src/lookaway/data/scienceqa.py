"""ScienceQA as its authors publish it: `problems.json`, `pid_splits.json`, `images/SPLIT/ID/image.png`.

Source of the layout: Lu et al., *Learn to Explain*, arXiv 2209.09513 (multiple choice; about half with an image). The
prompt and the form of the answer are those that LaVIN and EAS publish their accuracy with (QCM-ALE: question, context,
options in; answer, lecture, solution out).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import DataError
from ..core.record import Sample
from .fields import list_field, object_at, optional_text, scalar, text_field
from .tables import read_json

__all__ = ["LETTERS", "parse_answer", "prompt_of", "read_scienceqa", "target_of"]

LETTERS = "ABCDE"
PARTS = {"train": ("train",), "calibration": ("val",), "test": ("test",), "all": ("train", "val", "test")}


def read_scienceqa(folder: str | Path, split: str = "test", captions: str | Path | None = None) -> list[Sample]:
    """The problems of a split.

    A sample's `answer` is the letter, its `family` the subject; `meta` holds `choices`, `target` (the text that models
    are trained to say), `grade`, `has_text`, `has_image` and all that `scienceqa_accuracy` reads; that table is its
    scorer's.

    Args:
        folder: holds `problems.json`, `pid_splits.json` and `images/`.
        split: 'train', 'calibration' (the authors' val), 'test' or 'all'.
        captions: a `captions.json` of the images, whose texts join the context; None: no captions, as LaVIN trains.

    Raises:
        DataError: a file or a field is missing, damaged or of another type; the text names it.
    """
    folder = Path(folder)
    if split not in PARTS:
        raise DataError(f"No split {split!r} of ScienceQA; there are {', '.join(PARTS)}.")
    problems, parts = read_json(folder / "problems.json", dict), read_json(folder / "pid_splits.json", dict)
    texts: Mapping[str, Any] = {}
    if captions:
        texts = object_at(read_json(Path(captions), dict).get("captions", {}), f"'captions' of {captions}")
    found: list[Sample] = []
    for part in PARTS[split]:
        where = str(folder / "pid_splits.json")
        if part not in parts:
            raise DataError(f"{where} has no split {part!r}; it has {', '.join(parts)}.")
        for number in (scalar(value, part, where) for value in list_field(parts, part, where)):
            if number not in problems:
                raise DataError(f"Problem {number!r} of the split {part!r} is not in {folder / 'problems.json'}.")
            caption = optional_text(texts, number, str(captions)) or ""
            found.append(_sample(problems[number], number, part, folder, caption))
    return found


def prompt_of(problem: Mapping[str, Any], caption: str = "") -> str:
    """LaVIN's prompt: question, context, options and 'Response:', a line each."""
    context = " ".join([problem.get("hint") or "", caption]).strip() or "N/A"
    options = " ".join(f"({LETTERS[i]}) {choice}" for i, choice in enumerate(problem["choices"]))
    text = f"Question: {problem['question']}\nContext: {context}\nOptions: {options}\nResponse:"
    return text.replace("  ", " ").strip()


def target_of(problem: Mapping[str, Any]) -> str:
    """What LaVIN learns to say: 'The answer is B. BECAUSE: ' and lecture and solution, where there are any."""
    reason = " ".join(str(problem.get(key) or "").replace("\n", "\\n") for key in ("lecture", "solution"))
    return f"The answer is {LETTERS[problem['answer']]}. BECAUSE: {reason}".replace("  ", " ").strip()


def parse_answer(text: str, choices: Sequence[str] | int) -> str | None:
    """The letter that a model's text names as its answer, or None.

    In this order: a text that is nothing but a letter ('B', 'b', '(B)', 'B.', 'B)', 'B:'), one that begins with a
    letter as a list does ('B. the cat', '(B) the cat'), and 'The answer is B' said exactly once. The published scripts
    (LLaVA's, LaVIN's) read the plain forms of these; in what they cannot read, or where the letter is no choice, some
    take a random choice. Here that is None, which counts as wrong: no accuracy by luck.

    Args:
        text: what the model said.
        choices: the choices, or their number (at most 26).
    """
    count = choices if isinstance(choices, int) else len(choices)
    found = _BARE.fullmatch(text) or _LISTED.match(text)
    letters = [found[1] or found[2]] if found else re.findall(r"The answer is \(?([A-Z])\b", text)
    letter = letters[0].upper() if len(letters) == 1 else ""
    return letter if letter and ord(letter) - ord("A") < count else None


_BARE = re.compile(r"\s*(?:\(([A-Za-z])\)|([A-Za-z])\)?)\s*[.:]?\s*")
_LISTED = re.compile(r"\s*(?:\(([A-Z])\)|([A-Z])[.)])\s+\S")


def _sample(value: Any, number: str, part: str, folder: Path, caption: str) -> Sample:
    where = f"{folder / 'problems.json'}, problem {number!r}"
    problem = object_at(value, where)
    read = {key: optional_text(problem, key, where) for key in ("hint", "lecture", "solution", "subject", "grade")}
    question = text_field(problem, "question", where)
    choices = tuple(scalar(choice, "choices", where) for choice in list_field(problem, "choices", where))
    if "answer" not in problem:
        raise DataError(f"{where} has no 'answer'.")
    place = problem["answer"]
    if type(place) is not int:
        raise DataError(f"{where}: 'answer' must be the number of a choice, from 0, not {place!r}.")
    if not 0 < len(choices) <= len(LETTERS) or not 0 <= place < len(choices):
        raise DataError(f"{where} has {len(choices)} choices and the answer {place}; at most 5 fit.")
    image = optional_text(problem, "image", where)
    images = (str(folder / "images" / part / number / image),) if image else ()
    asked = {**read, "question": question, "choices": choices, "answer": place}
    text = {"type": "text", "text": prompt_of(asked, caption)}
    return Sample(
        id=number,
        messages=[{"role": "user", "content": [*({"type": "image"} for _ in images), text]}],
        images=images,
        answer=LETTERS[place],
        family=read["subject"],
        meta={
            "choices": choices,
            "target": target_of(asked),
            "grade": read["grade"],
            "has_text": bool(read["hint"]),
            "has_image": bool(images),
            "image_names": tuple(f"{part}/{number}" for _ in images),
            "scorer": "scienceqa",
        },
    )
