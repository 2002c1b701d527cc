"""GQA as its authors publish it: `PART_balanced_questions.json` and `images/ID.jpg`.

Source: Hudson and Manning, arXiv 1902.09506. The prompt is the field's (LLaVA, lmms-eval): the question, then `SHORT`.
"""

from __future__ import annotations

from pathlib import Path

from ..core.errors import DataError
from ..core.record import Sample
from .fields import object_at, optional_text, text_field
from .tables import read_json

__all__ = ["SHORT", "read_gqa", "short_question"]

SHORT = "\nAnswer the question using a single word or phrase."
PARTS = {"train": "train", "calibration": "val", "test": "testdev"}


def read_gqa(folder: str | Path, split: str = "test") -> list[Sample]:
    """The balanced questions of a split, in the file's order; 'calibration' is val, 'test' is testdev.

    A sample's `family` is the question's structural type (verify, query, choose, ...), where the file has it. Other
    parts, such as 'challenge', are read by their own names; their questions may lack answers.

    Raises:
        DataError: no such split, a file missing or damaged, or a field that is missing or of another type.
    """
    if split == "all":
        return [sample for part in PARTS for sample in read_gqa(folder, part)]
    folder, part = Path(folder), PARTS.get(split, split)
    file = folder / f"{part}_balanced_questions.json"
    if split not in PARTS and not file.exists():
        raise DataError(f"No split {split!r} of GQA in {folder}; there are {', '.join(PARTS)} and all.")
    found = []
    for number, question in read_json(file, dict).items():
        where = f"{file}, question {number!r}"
        entry = object_at(question, where)
        name = f"images/{text_field(entry, 'imageId', where)}.jpg"
        text = text_field(entry, "question", where)
        wanted = text_field if part in PARTS.values() else optional_text
        types = entry.get("types")
        found.append(
            Sample(
                id=str(number),
                messages=short_question(text),
                images=(str(folder / name),),
                answer=wanted(entry, "answer", where),
                family=optional_text(types, "structural", where) if isinstance(types, dict) else None,
                meta={"question": text, "image_names": (name,), "scorer": "gqa"},
            )
        )
    return found


def short_question(text: str) -> list[dict[str, object]]:
    """One image, a question, and the request for a word or a phrase."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"{text}{SHORT}"}]}]
