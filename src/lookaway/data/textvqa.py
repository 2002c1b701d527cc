"""TextVQA as its authors publish it: `TextVQA_0.5.1_PART.json` and `train_images/ID.jpg`, which holds val's too.

Source: Singh et al., arXiv 1904.08920. The test answers are not public, so 'calibration' and 'test' are halves of val,
parted by image. The prompt is lmms-eval's: the question with only its first letter a capital, then `SHORT`; LLaVA adds
the words that an OCR system read, which the file does not hold.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from ..core.errors import DataError
from ..core.record import Sample
from .fields import list_field, object_at, text_field, texts_field
from .gqa import short_question
from .tables import read_json

__all__ = ["read_textvqa"]

PARTS = {"train": "train", "calibration": "val", "test": "val"}


def read_textvqa(folder: str | Path, split: str = "test") -> list[Sample]:
    """The questions of a split, in the file's order; `meta["answers"]` holds the ten answers as they were given.

    Args:
        split: 'train', 'calibration' or 'test' (halves of val), 'all' (train and val), or a part by its own name, such
            as 'val' or 'test_part', read from `TextVQA_0.5.1_PART.json`.

    Raises:
        DataError: no such split, a file missing or damaged, or a field that is missing or of another type.
    """
    if split == "all":
        return [*read_textvqa(folder, "train"), *read_textvqa(folder, "val")]
    folder, part = Path(folder), PARTS.get(split, split)
    file = folder / f"TextVQA_0.5.1_{part}.json"
    if split not in PARTS and not file.exists():
        raise DataError(f"No split {split!r} of TextVQA in {folder}; there are {', '.join(PARTS)}, val and all.")
    entries = list_field(read_json(file, dict), "data", str(file))
    samples = [_sample(entry, number, folder, file, part) for number, entry in enumerate(entries, 1)]
    if split in ("calibration", "test"):
        samples = [sample for sample in samples if _half(sample.meta["image_names"][0]) == split]
    return samples


def _half(image: str) -> str:
    return "calibration" if hashlib.sha256(image.encode()).digest()[0] % 2 else "test"


def _sample(value: Any, number: int, folder: Path, file: Path, part: str) -> Sample:
    where = f"{file}, question {number}"
    entry = object_at(value, where)
    name = f"{'test' if part == 'test' else 'train'}_images/{text_field(entry, 'image_id', where)}.jpg"
    question = text_field(entry, "question", where)
    unknown = part not in PARTS.values() and entry.get("answers") is None  # those of the test part are not public
    answers = () if unknown else texts_field(entry, "answers", where)
    return Sample(
        id=text_field(entry, "question_id", where),
        messages=short_question(question.capitalize()),
        images=(str(folder / name),),
        answer=Counter(answers).most_common(1)[0][0] if answers else None,
        meta={"question": question, "answers": answers, "image_names": (name,), "scorer": "textvqa"},
    )
