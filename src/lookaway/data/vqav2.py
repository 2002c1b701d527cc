"""VQAv2 as visualqa.org publishes it, and the 3,129 answers that classifiers like METER choose from.

A folder holds `v2_OpenEnded_mscoco_PART_questions.json`, `v2_mscoco_PART_annotations.json` and the COCO images in
`train2014/`, `val2014/`, `test2015/`. The test answers are not public, so 'calibration' and 'test' are halves of val,
parted by image.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import DataError
from ..core.record import Sample
from .fields import list_field, object_at, optional_text, text_field, texts_field
from .gqa import short_question
from .tables import read_json
from .vqa_words import normal_answer, soft_scores

__all__ = ["VqaLabels", "read_vqav2"]

PARTS = {"train": "train2014", "calibration": "val2014", "test": "val2014"}


def read_vqav2(folder: str | Path, split: str = "test") -> list[Sample]:
    """The questions of a split, in the file's order.

    A sample's `answer` is the one most people gave, its `family` the answer type ('yes/no', 'number', 'other');
    `meta["answers"]` holds the ten answers as they were given. The prompt is the field's (LLaVA, lmms-eval): the
    question, then the request for a word or a phrase; the bare question, for classifiers, is `meta["question"]`.

    Args:
        split: 'train', 'calibration' or 'test' (halves of val), 'all' (train and val), or a part by its own name, such
            as 'test2015', whose questions have no answers.

    Raises:
        DataError: no such split, a file missing or damaged, a field that is missing or of another type, or a question
            without its annotation.
    """
    if split == "all":
        return [*read_vqav2(folder, "train2014"), *read_vqav2(folder, "val2014")]
    folder, part = Path(folder), PARTS.get(split, split)
    questions_file = folder / f"v2_OpenEnded_mscoco_{part}_questions.json"
    if split not in PARTS and not questions_file.exists():
        raise DataError(f"No split {split!r} of VQAv2 in {folder}; there are {', '.join(PARTS)}, all and the parts.")
    annotations: dict[str, tuple[str, Mapping[str, Any]]] | None = None
    annotations_file = folder / f"v2_mscoco_{part}_annotations.json"
    if annotations_file.exists() or split in PARTS:
        annotations = {
            text_field(entry, "question_id", where): (where, entry)
            for where, entry in _entries(annotations_file, "annotations")
        }
    found = []
    for where, question in _entries(questions_file, "questions"):
        number = text_field(question, "image_id", where)
        if not number.isdecimal():
            raise DataError(f"{where}: 'image_id' must be COCO's number of the image, not {number[:40]!r}.")
        if split in ("calibration", "test") and _half(int(number)) != split:
            continue
        identifier = text_field(question, "question_id", where)
        if annotations is not None and identifier not in annotations:
            raise DataError(f"Question {identifier} of {questions_file} is not in {annotations_file}.")
        images = "test2015" if part.startswith("test") else part
        name = f"{images}/COCO_{images}_{int(number):012d}.jpg"
        annotated = None if annotations is None else annotations[identifier]
        found.append(_sample(identifier, text_field(question, "question", where), annotated, name, folder))
    return found


class VqaLabels:
    """The answers of a VQA classifier, in the order of its outputs."""

    def __init__(self, answers: Sequence[str]) -> None:
        if len(set(answers)) != len(answers):
            twice = Counter(answers).most_common(1)[0][0]
            raise DataError(f"The answer {twice!r} stands twice among the classifier's labels.")
        self.answers = tuple(answers)
        self.index = {answer: i for i, answer in enumerate(self.answers)}

    def __len__(self) -> int:
        return len(self.answers)

    @classmethod
    def from_samples(cls, samples: Iterable[Sample], least: int = 9) -> VqaLabels:
        """The answers that are most people's for at least `least` questions, in the order in which they first occur.

        Made from all of train and val (`read_vqav2(folder, "all")`) by the rule that gives the published 3,129.
        """
        counts = Counter(normal_answer(sample.answer) for sample in samples if sample.answer is not None)
        return cls([answer for answer, count in counts.items() if count >= least])

    @classmethod
    def read(cls, file: str | Path) -> VqaLabels:
        """From a JSON list of answers, or an object of answer -> index (`trainval_ans2label.json`)."""
        value = read_json(Path(file), object)
        if isinstance(value, Mapping):
            value = sorted(value, key=value.__getitem__)
        if not isinstance(value, list) or not all(isinstance(answer, str) for answer in value):
            raise DataError(f"{file} must hold a list of answers, or an object of answer -> index.")
        return cls(value)

    def targets(self, samples: Sequence[Sample]) -> Tensor:
        """Soft scores, float32 [B, labels]: of each label the score that people's answers give it.

        As published, an answer counts where it is a label letter by letter.
        """
        scores = torch.zeros(len(samples), len(self))
        for row, sample in enumerate(samples):
            for answer, score in soft_scores(sample.meta["answers"]).items():
                if answer in self.index:
                    scores[row, self.index[answer]] = score
        return scores

    def named(self, logits: Tensor) -> list[str]:
        """The best answer of each row of [B, labels]."""
        return [self.answers[i] for i in logits.argmax(-1).tolist()]


def _half(image: int) -> str:
    return "calibration" if hashlib.sha256(str(image).encode()).digest()[0] % 2 else "test"


def _entries(file: Path, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(file and place, entry) of the list under `key`."""
    for number, entry in enumerate(list_field(read_json(file, dict), key, str(file)), 1):
        where = f"{file}, {key[:-1]} {number}"
        yield where, object_at(entry, where)


def _sample(
    identifier: str, question: str, annotated: tuple[str, Mapping[str, Any]] | None, name: str, folder: Path
) -> Sample:
    """Args: annotated: (file and place, annotation), or None in a part without answers."""
    meta: dict[str, Any] = {"question": question, "answers": (), "image_names": (name,), "scorer": "vqa"}
    answer = family = None
    if annotated is not None:
        where, annotation = annotated
        answer = text_field(annotation, "multiple_choice_answer", where)
        family = optional_text(annotation, "answer_type", where)
        meta["answers"] = texts_field(annotation, "answers", where)
        meta["question_type"] = optional_text(annotation, "question_type", where)
    return Sample(identifier, short_question(question), (str(folder / name),), answer, family, meta)
