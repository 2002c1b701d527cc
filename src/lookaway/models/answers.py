"""What the full model itself answers: the target where there is no ground truth, and what 'the same answer' means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.provenance import picture_digest, provenance_key
from ..core.record import RecordWriter, Sample, read_records
from .encoding import encode

__all__ = ["own_answers", "without_end"]


def own_answers(
    model: Any,
    processor: Any,
    batches: Sequence[Sequence[Sample]],
    max_new_tokens: int = 32,
    cache: Path | None = None,
    progress: Callable[[int], object] | None = None,
) -> dict[str, list[int]]:
    """The full model's greedy answers as token ids without the end token, by sample id.

    Args:
        batches: samples that run together.
        cache: JSONL file in which answers of this very model are kept, and from which known ones are taken: by question
            and by what the pictures show, not by their names.
        progress: called with the number of samples after each batch.
    """
    known: dict[str, list[int]] = {}
    writer = None
    if cache is not None:
        writer = RecordWriter(cache)  # drops a line that a kill cut short
        known = {record["key"]: record["tokens"] for record in read_records(cache)}
    found: dict[str, list[int]] = {}
    pictures: dict[str, str] = {}
    for batch in batches:
        keys = [_question_key(sample, pictures) for sample in batch]
        if not all(key in known for key in keys):
            inputs = encode(processor, batch, model.device).inputs
            with torch.no_grad():
                ids = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
            for key, row in zip(
                keys, without_end(ids[:, inputs["input_ids"].shape[1] :], model, processor), strict=True
            ):
                known[key] = row
                if writer is not None:
                    writer.write("own-answer", key=key, tokens=row)
        if progress is not None:
            progress(len(batch))
        found.update({sample.id: known[key] for sample, key in zip(batch, keys, strict=True)})
    if writer is not None:
        writer.close()
    return found


def without_end(ids: Tensor, model: Any, processor: Any) -> list[list[int]]:
    """Generated tokens int64 [B, N], row by row up to their end token, which is left out."""
    end = model.generation_config.eos_token_id
    ends = {end} if isinstance(end, int) else set(end or ())
    ends.add(processor.tokenizer.eos_token_id)
    stops = [next((i for i, token in enumerate(row) if token in ends), len(row)) for row in ids.tolist()]
    return [row[:stop] for row, stop in zip(ids.tolist(), stops, strict=True)]


def _question_key(sample: Sample, known: dict[str, str]) -> str:
    seen = [picture_digest(image, known) for image in sample.images]
    return f"{sample.id}:{provenance_key([sample.messages, seen])}"
