"""NLVR2 as its authors publish it: JSON lines of a sentence, true or false of two photographs.

Source: Suhr et al., arXiv 1811.00491. A folder holds `train.json`, `dev.json`, `test1.json` (their names in the
authors' repository, each a file of JSON lines) and `images/`: `images/train/DIRECTORY/NAME-img0.png`, elsewhere
`images/PART/NAME-img0.png`.
"""

from __future__ import annotations

from pathlib import Path

from ..core.errors import DataError
from ..core.record import Sample
from .tables import read_json_lines

__all__ = ["read_nlvr2"]

PARTS = {"train": ("train",), "calibration": ("dev",), "test": ("test1",), "all": ("train", "dev", "test1")}
QUESTION = "{sentence} Is this true of the two images? Answer yes or no."


def read_nlvr2(folder: str | Path, split: str = "test") -> list[Sample]:
    """The statements of a split, one sample each: two images, left and right.

    For chat models the message asks, and `answer` is 'yes' or 'no'; for classifiers `meta["sentence"]` is the bare
    statement and `meta["label"]` 1 (true) or 0.

    Raises:
        DataError: no such split, a file missing or damaged, or a label that is neither 'True' nor 'False'.
    """
    if split not in PARTS:
        raise DataError(f"No split {split!r} of NLVR2; there are {', '.join(PARTS)}.")
    folder = Path(folder)
    found = []
    for part in PARTS[split]:
        file = folder / f"{part}.json"
        for entry in read_json_lines(file):
            try:
                identifier, sentence = str(entry["identifier"]), str(entry["sentence"])
                label = {"True": 1, "False": 0}[str(entry["label"])]
                inner = f"train/{entry['directory']}" if part == "train" else part
            except KeyError as error:
                raise DataError(f"{file}: entry {entry.get('identifier')!r} has no valid {error}.") from None
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
