"""NLVR2 as its authors publish it: JSON lines of a sentence, true or false of two photographs.

Source: Suhr et al., arXiv 1811.00491. A folder holds `train.json`, `dev.json`, `test1.json` (their names in the
authors' repository, each a file of JSON lines) and `images/`: `images/train/DIRECTORY/NAME-img0.png`, elsewhere
`images/PART/NAME-img0.png`.
"""

from __future__ import annotations

from pathlib import Path

from ..core.errors import DataError
from ..core.record import Sample
from .fields import text_field
from .tables import read_json_lines

__all__ = ["read_nlvr2"]

PARTS = {"train": ("train",), "calibration": ("dev",), "test": ("test1",), "all": ("train", "dev", "test1")}
LABELS = {"True": 1, "False": 0}
QUESTION = "{sentence} Is this true of the two images? Answer yes or no."


def read_nlvr2(folder: str | Path, split: str = "test") -> list[Sample]:
    """The statements of a split, one sample each: two images, left and right.

    For chat models the message asks, and `answer` is 'yes' or 'no'; for classifiers `meta["sentence"]` is the bare
    statement and `meta["label"]` 1 (true) or 0.

    Raises:
        DataError: no such split, a file missing or damaged, a field that is missing or of another type, or a label that
            is neither 'True' nor 'False'.
    """
    if split not in PARTS:
        raise DataError(f"No split {split!r} of NLVR2; there are {', '.join(PARTS)}.")
    folder = Path(folder)
    found = []
    for part in PARTS[split]:
        file = folder / f"{part}.json"
        for line, entry in read_json_lines(file):
            where = f"{file}, line {line}"
            identifier, sentence = text_field(entry, "identifier", where), text_field(entry, "sentence", where)
            if "label" not in entry or str(entry["label"]) not in LABELS:
                raise DataError(f"{where}: 'label' must be 'True' or 'False', not {str(entry.get('label'))[:40]!r}.")
            label = LABELS[str(entry["label"])]
            inner = f"train/{text_field(entry, 'directory', where)}" if part == "train" else part
            stem = identifier.rsplit("-", 1)[0]  # the last number is the statement's; the pair's images share the rest
            names = tuple(f"images/{inner}/{stem}-img{i}.png" for i in (0, 1))
            question = QUESTION.format(sentence=sentence)
            content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": question}]
            found.append(
                Sample(
                    id=identifier,
                    messages=[{"role": "user", "content": content}],
                    images=tuple(str(folder / name) for name in names),
                    answer="yes" if label else "no",
                    meta={"sentence": sentence, "label": label, "image_names": names},
                )
            )
    return found
