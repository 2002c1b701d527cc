"""Samples -> exit table, cached on disk: features and what every exit would cost, once; gates are then trained freely.

Where samples have answers, the ground truth is teacher-forced (as published); where they have none, the full model's
own greedy answer is, so that any images and prompts will do. With the own answer, 'the same answer tokens' IS agreement
of free-running greedy answers: the exit's answer is equal if and only if no argmax along it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ..core.decision import Policy
from ..core.errors import DataError
from ..core.exit_table import ExitTable
from ..core.provenance import picture_digests, provenance, provenance_key
from ..core.record import Sample
from ..engine.api import attach
from ..engine.replay.exit_table import collect_exit_table
from ..models.answerable import answerable
from ..models.answers import own_answers
from ..models.encoding import LazyBatches, group_by_image
from .labels_behind import check_comes_first, exits_behind, tables_behind

__all__ = ["LabelOptions", "image_names", "make_exit_table", "with_images"]


NOTHING = "No sample has an image: there is nothing to exit from."


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """Make the exit table of samples."""

    target: Literal["auto", "answer", "own"] = "auto"
    """answer: the samples' ground truth; own: the full model's greedy answer; auto: ground truth where all have it."""
    batch_size: int = 16
    """Samples a run; the questions of one image go together and share its prefix."""
    max_new_tokens: int = 32
    """Longest own answer, in tokens."""
    candidates: tuple[int, ...] = ()
    """Candidate exit layers; empty: all from the first prunable layer on."""
    features: Literal["float16", "float32"] = "float16"
    """Precision in which the text features are kept. A live gate reads them unrounded, so a bound needs float32."""


def make_exit_table(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    options: LabelOptions | None = None,
    cache_dir: str | Path | None = None,
    progress: Callable[[int], None] | None = None,
    after: Policy | None = None,
    leave_out: bool = False,
) -> ExitTable:
    """The exit table of the samples that have an image.

    Args:
        model, processor: of the same supported model, no policy attached.
        cache_dir: batches that are done stay there; the same call after a kill goes on from them.
        progress: called with the number of samples after each batch, once for its own answers where these are the
            target, and once for its labels (`phases`).
        after: a policy that stays on while the gates are used (a skip set, a keep schedule): 'the full model' is then
            the one under this policy. A sample costs several times more (`labels_behind.py`).
        leave_out: samples whose answer holds the token of visual positions are left out, and counted in a warning;
            False: they are an error, as for a bound, which is of all samples.

    Raises:
        DataError: no sample has an image, answers are asked for and missing, or an answer holds the token of visual
            positions.
        SettingsError: `after` looks twice, or behind it a candidate layer has nothing to exit from.
    """
    options = options or LabelOptions()
    check_comes_first(after)
    seen = with_images(samples)
    if not seen:
        raise DataError(NOTHING)
    target = target_of(seen, options.target)
    missing = [sample.id for sample in seen if sample.answer is None]
    if target == "answer" and missing:
        raise DataError(
            f"{len(missing)} samples have no answer (the first: {missing[0]!r}). Use --target own: then the model's "
            "own greedy answer is what an exit must keep."
        )
    batches = group_by_image(seen, options.batch_size)
    answers: dict[str, str | Sequence[int]]
    if target == "own":
        known = None
        if cache_dir is not None and after is None:
            depends = provenance(model=model, processor=processor, max_new_tokens=options.max_new_tokens)
            known = Path(cache_dir) / f"own-answers-{provenance_key(depends)}.jsonl"
        with nullcontext() if after is None else attach(model, after):
            answers = dict(own_answers(model, processor, batches, options.max_new_tokens, known, progress))
    else:
        answers = {sample.id: str(sample.answer) for sample in seen}

    if leave_out:
        whose = "the model's own answer" if target == "own" else "their answer"
        seen = answerable(processor, seen, answers, whose)
        if not seen:
            raise DataError("No sample is left: every answer holds the token that stands for a picture.")
        batches = group_by_image(seen, options.batch_size)
    dtype = torch.float32 if options.features == "float32" else torch.float16

    encoded = LazyBatches(processor, batches, model.device, answers)
    if after is not None:
        layers = options.candidates or exits_behind(model, processor, after, batches[0])
        return tables_behind(model, processor, after, encoded, layers, target, cache_dir, progress, dtype)
    return collect_exit_table(model, encoded, options.candidates or None, progress, cache_dir, target, dtype=dtype)


def target_of(samples: Sequence[Sample], target: str) -> Literal["answer", "own"]:
    """'auto' as what it means for these samples: the ground truth where all have it."""
    if target == "auto":
        target = "own" if any(sample.answer is None for sample in samples) else "answer"
    return "own" if target == "own" else "answer"


def phases(samples: Sequence[Sample], target: str) -> tuple[str, ...]:
    """What `make_exit_table` does to every sample, one after the other; it counts each to its `progress` every time."""
    return ("own answers", "labels") if target_of(samples, target) == "own" else ("labels",)


def with_images(samples: Sequence[Sample]) -> list[Sample]:
    """The samples that have an image; ids that occur twice are an error, since tables are joined by id."""
    seen = [sample for sample in samples if sample.images]
    ids = [sample.id for sample in seen]
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"Two samples have the id {twice!r}; give each its own.")
    return seen


def image_names(samples: Sequence[Sample]) -> dict[str, str]:
    """Sample id -> a name of its image or images by their content; without image its own id.

    Raises:
        DataError: an image file cannot be read.
    """
    known: dict[str, str] = {}
    return {sample.id: "|".join(picture_digests(sample, known)) or sample.id for sample in samples}
