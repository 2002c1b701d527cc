"""What the full model itself answers: the target where there is no ground truth, and what 'the same answer' means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.processes import processes
from ..core.provenance import picture_digests, provenance_key
from ..core.record import RecordWriter, Sample, read_records
from ..core.shared_records import SharedRecords, merge_parts, share_records
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
        progress: called with the number of samples that are known already, and after each batch.
    """
    known: dict[str, list[int]] = {}
    if cache is not None:
        known = processes().first(lambda: _known(cache))
    pictures: dict[str, str] = {}
    keys = [[_question_key(sample, pictures) for sample in batch] for batch in batches]
    rest = [place for place, own in enumerate(keys) if not all(key in known for key in own)]
    if progress is not None and len(rest) < len(batches):
        progress(sum(map(len, batches)) - sum(len(batches[place]) for place in rest))

    def run(place: int) -> list[dict[str, Any]]:
        inputs = encode(processor, batches[place], model.device).inputs
        with torch.no_grad():
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        rows = without_end(ids[:, inputs["input_ids"].shape[1] :], model, processor)
        return [{"key": key, "tokens": row} for key, row in zip(keys[place], rows, strict=True)]

    with nullcontext() if cache is None else SharedRecords(cache) as writer:
        for rows in share_records(rest, run, writer, "own-answer", progress=progress):
            known.update({str(row["key"]): row["tokens"] for row in rows})
    return {
        sample.id: known[key]
        for batch, own in zip(batches, keys, strict=True)
        for sample, key in zip(batch, own, strict=True)
    }


def _known(cache: Path) -> dict[str, list[int]]:
    """What the file and what processes that died left beside it hold."""
    RecordWriter(cache).close()  # drops a line that a kill cut short
    merge_parts(cache)
    return {record["key"]: record["tokens"] for record in read_records(cache)}


def without_end(ids: Tensor, model: Any, processor: Any) -> list[list[int]]:
    """Generated tokens int64 [B, N], row by row up to their end token, which is left out."""
    end = model.generation_config.eos_token_id
    ends = {end} if isinstance(end, int) else set(end or ())
    ends.add(processor.tokenizer.eos_token_id)
    stops = [next((i for i, token in enumerate(row) if token in ends), len(row)) for row in ids.tolist()]
    return [row[:stop] for row, stop in zip(ids.tolist(), stops, strict=True)]


def _question_key(sample: Sample, known: dict[str, str]) -> str:
    seen = picture_digests(sample, known)
    return f"{sample.id}:{provenance_key([sample.messages, seen])}"
