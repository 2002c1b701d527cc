"""What every sample would answer for every exit, exactly, for about three prefills a sample.

Two teacher-forced tables give both questions their exact answer for greedy decoding: against the ground truth, 'would
it be said?'; against the full model's own answer, 'would it be the same?'. Where the full model is right the first
table answers both, so the second is made for the other samples only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..anatomy.find import anatomy_of
from ..core.errors import DataError
from ..core.exit_table import ExitTable
from ..core.processes import share
from ..core.record import Sample
from ..engine.replay.exit_table import collect_exit_table
from ..models.answerable import answerable
from ..models.answers import own_answers
from ..models.encoding import LazyBatches, encode, group_by_image
from .curves import ExitOutcomes
from .scoring import require_answers

__all__ = ["collect_outcomes"]


def collect_outcomes(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    *,
    cache_dir: str | Path | None = None,
    batch_size: int = 8,
    max_new_tokens: int = 32,
    scores: Mapping[str, tuple[float, float]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[ExitTable, ExitOutcomes]:
    """(exit table against the ground truth, outcomes of all exits) for samples with images and answers.

    Both are in the order of `samples`; those that are left out, because their answer or the model's own one holds the
    token of visual positions, are counted in a warning, and `table.ids` has the others.

    Args:
        scores: sample id -> score of the full model's own answer, and of the ground truth said word for word. An exit
            that says neither scores 0: what it says is not known. None: 1 for the truth word for word, else 0.
        progress: called with numbers of samples.

    Raises:
        DataError: a sample has no answer, or all are left out.
    """
    require_answers(list(samples))
    samples = _some(answerable(processor, samples, {s.id: str(s.answer) for s in samples}, "their answer"))
    device = model.device
    batches = group_by_image(samples, batch_size)
    truth = collect_exit_table(
        model,
        LazyBatches(processor, batches, device, {sample.id: str(sample.answer) for sample in samples}),
        progress=progress,
        cache_dir=cache_dir,
    )
    truth = _in_order(truth, samples)
    wrong = [sample for sample, right in zip(samples, truth.full_match.tolist(), strict=True) if not right]
    said = own_answers(model, processor, group_by_image(wrong, batch_size), max_new_tokens) if wrong else {}
    told = answerable(processor, wrong, said, "the model's own answer")
    if len(told) < len(wrong):
        odd = {sample.id for sample in wrong} - {sample.id for sample in told}
        samples, wrong = _some([sample for sample in samples if sample.id not in odd]), told
        truth, batches = _in_order(truth, samples), group_by_image(samples, batch_size)
    agree = truth.match.clone()
    if wrong:
        rest = group_by_image(wrong, batch_size)
        own = collect_exit_table(
            model,
            LazyBatches(processor, rest, device, said),
            cache_dir=cache_dir,
            target="own",
        )
        agree[~truth.full_match] = _in_order(own, wrong).agree
    visual, text = _token_counts(model, processor, batches, samples)
    right = torch.cat([truth.match, truth.full_match[:, None]], dim=1).double().numpy()
    same = np.concatenate([agree.numpy(), np.ones((len(samples), 1), dtype=bool)], axis=1)
    if scores is not None:
        own_score, truth_score = np.array([scores[sample.id] for sample in samples])[:, :, None].swapaxes(0, 1)
        right = np.where(same, own_score, truth_score * right)
    anatomy = anatomy_of(model)
    return truth, ExitOutcomes((*truth.layers, anatomy.num_layers), right, same, visual, text, anatomy.shape)


def _some(samples: list[Sample]) -> list[Sample]:
    if not samples:
        raise DataError("No sample is left: every answer holds the token that stands for a picture.")
    return samples


def _in_order(table: ExitTable, samples: Sequence[Sample]) -> ExitTable:
    place = {name: row for row, name in enumerate(table.ids)}
    return table.subset([place[sample.id] for sample in samples])


def _token_counts(
    model: Any, processor: Any, batches: Sequence[Sequence[Sample]], samples: Sequence[Sample]
) -> tuple[np.ndarray, np.ndarray]:
    """Visual and text tokens of each sample's prompt, two int64 [N]."""
    anatomy = anatomy_of(model)

    def run(batch: Sequence[Sample]) -> dict[str, tuple[int, int]]:
        inputs = encode(processor, batch).inputs
        layout = anatomy.layout(inputs["input_ids"], inputs["attention_mask"])
        both = zip(batch, layout.visual_counts.tolist(), layout.counts.tolist(), strict=True)
        return {sample.id: (visual, every - visual) for sample, visual, every in both}

    counts = {name: found for part in share(batches, run, size=len) for name, found in part.items()}
    both = np.array([counts[sample.id] for sample in samples], dtype=np.int64)
    return both[:, 0], both[:, 1]
