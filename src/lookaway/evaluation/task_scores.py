"""Tables of public tasks that are more than a mean: ScienceQA's columns, recall of retrieval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..core.errors import DataError
from ..core.record import Sample
from ..data.scienceqa import parse_answer

__all__ = ["recall_at", "scienceqa_accuracy"]

SUBJECTS = {"natural": "natural science", "social": "social science", "language": "language science"}


def scienceqa_accuracy(samples: Sequence[Sample], texts: Mapping[str, str]) -> dict[str, float | None]:
    """The columns of ScienceQA's table, shares in [0, 1]; None where no sample belongs to a column.

    Args:
        samples: of `read_scienceqa`.
        texts: sample id -> what the model said, read by `parse_answer`; a text that names no choice is wrong.

    Returns:
        'natural', 'social', 'language', 'text', 'image', 'no context', 'grades 1-6', 'grades 7-12', 'average'. A
        sample with text and image counts in both columns.

    Raises:
        DataError: a sample has no answer among `texts`, or lacks what `read_scienceqa` notes of it.
    """
    right: dict[str, bool] = {}
    missing = [(s.id, key) for s in samples for key in ("choices", "has_text", "has_image") if key not in s.meta]
    if missing:
        raise DataError(
            f"Sample {missing[0][0]!r} has no {missing[0][1]!r}, which ScienceQA's table is made of: it is for "
            "--data scienceqa:FOLDER. For letters in a file of your own take --score letters."
        )
    for sample in samples:
        if sample.id not in texts:
            raise DataError(f"Sample {sample.id!r} has not been answered; {len(texts)} of {len(samples)} were.")
        right[sample.id] = parse_answer(texts[sample.id], sample.meta["choices"]) == sample.answer

    def share(chosen: Sequence[Sample]) -> float | None:
        return sum(right[sample.id] for sample in chosen) / len(chosen) if chosen else None

    table = {name: share([s for s in samples if s.family == subject]) for name, subject in SUBJECTS.items()}
    table["text"] = share([s for s in samples if s.meta["has_text"]])
    table["image"] = share([s for s in samples if s.meta["has_image"]])
    table["no context"] = share([s for s in samples if not s.meta["has_text"] and not s.meta["has_image"]])
    grades = {sample.id: _grade(sample) for sample in samples}
    table["grades 1-6"] = share([s for s in samples if 1 <= grades[s.id] <= 6])
    table["grades 7-12"] = share([s for s in samples if 7 <= grades[s.id] <= 12])
    table["average"] = share(samples)
    return table


def recall_at(scores: Tensor, image_of: Sequence[int], ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Recall of retrieval, shares in [0, 1].

    Args:
        scores: [captions, images], higher fits better; equal scores rank against the right one.
        image_of: for each caption the number of its image.

    Returns:
        'image@k': captions whose image is among the k best images; 'text@k': images of which at least one caption is
        among the k best captions.

    Raises:
        DataError: the shape does not fit, or an image has no caption.
    """
    owners = torch.as_tensor(image_of, device=scores.device)
    if scores.dim() != 2 or len(scores) != len(owners) or set(owners.tolist()) != set(range(scores.shape[1])):
        raise DataError(
            f"scores must be [captions, images]; they are {tuple(scores.shape)} for {len(owners)} captions of "
            f"{len(set(owners.tolist()))} images."
        )
    own = scores.gather(1, owners[:, None])  # [captions, 1]
    rank = (scores >= own).sum(1)  # 1: nothing else is as good
    # of an image: its best caption against all captions of other images
    mine = owners[:, None] == torch.arange(scores.shape[1], device=scores.device)
    best = scores.masked_fill(~mine, -torch.inf).amax(0)
    ahead = ((scores >= best) & ~mine).sum(0)
    found = {f"image@{k}": (rank <= k).double().mean().item() for k in ks}
    return found | {f"text@{k}": (ahead < k).double().mean().item() for k in ks}


def _grade(sample: Sample) -> int:
    """'grade7' -> 7; 0 where it is not said."""
    digits = "".join(filter(str.isdigit, str(sample.meta.get("grade") or "")))
    return int(digits) if digits else 0
