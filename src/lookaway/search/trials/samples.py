"""The samples a search sees: with an image, each once, never those of a test, and known by a fingerprint."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Literal

from ...core.errors import DataError
from ...core.provenance import picture_digests, provenance_key, sample_facts
from ...core.record import Sample
from ...models import answers
from ...models.encoding import group_by_image

__all__ = [
    "Target",
    "batches_by_length",
    "check_disjoint",
    "choose_target",
    "fingerprint",
    "own_answers",
    "shuffled",
    "targets",
    "with_images",
]

Target = Literal["answer", "own"]


def shuffled(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """The samples in an order drawn from the seed: files come sorted by kind of question, and whoever runs the first
    part of them would see one kind only."""
    order = list(samples)
    random.Random(f"samples:{seed}").shuffle(order)
    return order


def with_images(samples: Sequence[Sample]) -> list[Sample]:
    """The samples that have an image.

    Raises:
        DataError: none has one, or two have the same id.
    """
    seen = [sample for sample in samples if sample.images]
    if not seen:
        raise DataError("No sample has an image: there is no schedule to search on them. Give other --data.")
    ids = [sample.id for sample in seen]
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"Two samples have the id {twice!r}; give each its own.")
    return seen


def check_disjoint(calibration: Sequence[Sample], test: Sequence[Sample]) -> None:
    """Raise DataError where the two sets share a sample or a picture: a search must not see what it is judged on."""
    known: dict[str, str] = {}

    def seen(sample: Sample) -> list[str]:
        return picture_digests(sample, known)

    def question(sample: Sample) -> str:
        return provenance_key([sample.messages, seen(sample)])

    questions = {question(sample) for sample in calibration}
    pictures = {name for sample in calibration for name in seen(sample)}
    same = [sample.id for sample in test if question(sample) in questions]
    shared = [sample.id for sample in test if not pictures.isdisjoint(seen(sample))]
    if same or shared:
        names, what = (same, "questions") if same else (shared, "pictures")
        raise DataError(
            f"{len(names)} of {len(test)} test samples share their {what} with the calibration samples (the first: "
            f"{names[0]!r}), so the comparison would flatter whatever was searched. Use another split or file for one "
            "of them."
        )


def fingerprint(samples: Sequence[Sample]) -> str:
    """Sixteen hex digits that change with any question, picture, answer, or the order of the samples."""
    return provenance_key(sample_facts(samples))[:16]


def choose_target(samples: Sequence[Sample], measure: str) -> Target:
    """What is teacher-forced: the full model's own answers for agreement, ground truth for a score, and for the loss
    ground truth where every sample has it.

    Raises:
        DataError: a score is asked for, and a sample has no answer.
    """
    missing = [sample.id for sample in samples if sample.answer is None]
    if measure == "agreement" or (measure == "loss" and missing):
        return "own"
    if missing:
        raise DataError(
            f"{len(missing)} of {len(samples)} samples have no answer (the first: {missing[0]!r}), so no score can be "
            "taken. Use --measure agreement: then the model's own answers are what a schedule must keep."
        )
    return "answer"


def targets(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    target: Target,
    batch_size: int = 16,
    max_new_tokens: int = 32,
    progress: Callable[[int], object] | None = None,
) -> list[str | list[int]]:
    """What is teacher-forced, one a sample; `progress` gets the numbers of samples that the model had to answer."""
    if target == "answer":
        return [str(sample.answer) for sample in samples]
    return list(own_answers(model, processor, samples, batch_size, max_new_tokens, progress))


def batches_by_length(samples: Sequence[Sample], answers: Sequence[str | Sequence[int]], size: int) -> list[list[int]]:
    """Numbers of the samples in batches of at most `size`; samples of like length go together, so little is padded."""
    order = sorted(range(len(samples)), key=lambda i: (len(samples[i].question), len(answers[i]), i))
    return [order[first : first + size] for first in range(0, len(order), size)]


def own_answers(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    batch_size: int = 16,
    max_new_tokens: int = 32,
    progress: Callable[[int], object] | None = None,
) -> list[list[int]]:
    """The full model's greedy answers as token ids without the end token, in the order of the samples."""
    batches = group_by_image(samples, batch_size)
    found = answers.own_answers(model, processor, batches, max_new_tokens, progress=progress)
    return [found[sample.id] for sample in samples]
