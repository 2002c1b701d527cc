"""Floor 1: samples in. `load_samples` is the door for every command's --data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.errors import DataError

if TYPE_CHECKING:
    from ..core.record import Sample

__all__ = ["SPLITS", "load_samples"]

SPLITS = ("train", "calibration", "test")
"""What gates learn from, what thresholds are chosen on, what is reported: never the same pictures."""


def load_samples(spec: str, split: str = "test", limit: int | None = None, seed: int = 0) -> list[Sample]:
    """Samples of a named set or of a user's file, of one split.

    Args:
        spec: 'mini' (scenes and easy-VQA in equal parts), 'scenes', 'easy-vqa', or a path (docs/data.md).
        split: 'train', 'calibration' or 'test'; 'all' takes a user's file whole.
        limit: at most so many; the generated sets make 1000 where it is None.
        seed: draws another part of the generated sets; a user's file is shuffled with it before `limit` cuts.

    Raises:
        DataError: no such split or file, a damaged file, nothing in the split.
    """
    if split not in (*SPLITS, "all"):
        raise DataError(f"No split {split!r}; there are {', '.join(SPLITS)} and, for your own files, 'all'.")
    if limit is not None and limit < 1:
        raise DataError(f"--limit must be at least 1, not {limit}.")
    if spec in ("mini", "scenes", "easy-vqa"):
        return _generated(spec, split, limit or 1000, seed)
    return _own(spec, split, limit, seed)


def _generated(spec: str, split: str, count: int, seed: int) -> list[Sample]:
    from . import easy_vqa, scenes

    if split == "all":
        raise DataError(f"The split 'all' is for your own files; {spec!r} has {', '.join(SPLITS)}.")
    if spec == "scenes":
        return scenes.samples(split, count, seed)
    if spec == "easy-vqa":
        return easy_vqa.samples(split, count, seed)
    half = count // 2
    easy = easy_vqa.samples(split, half, seed) if half else []
    return [*scenes.samples(split, count - half, seed), *easy]


def _own(path: str, split: str, limit: int | None, seed: int) -> list[Sample]:
    import random

    from .formats import read_samples, split_of

    samples = read_samples(path)
    if split != "all":
        chosen = [sample for sample in samples if split_of(sample) == split]
        if not chosen:
            raise DataError(
                f"None of the {len(samples)} samples of {path} falls into the split {split!r} (60 / 20 / 20 by image). "
                "Give more samples, or --split all."
            )
        samples = chosen
    if limit is not None and limit < len(samples):
        samples = random.Random(seed).sample(samples, limit)
    return samples
