"""Samples -> exit table: one full run and one growing batch of suffixes tell what every exit would have cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ...anatomy.base import Anatomy
from ...anatomy.find import anatomy_of
from ...core.errors import DataError, SettingsError
from ...core.exit_table import ExitTable
from ...core.greedy import GreedyRule, answer_places
from ...core.layout import TokenLayout
from ...core.processes import processes, share
from ...core.provenance import provenance, provenance_key
from ..prefill.decoder_call import gather_rows
from .shared_prefix import groups_of, record_shared, rows_of
from .tape import Tape, record_tape

__all__ = ["EncodedBatch", "cached_tables", "collect_exit_table"]


class EncodedBatch(Protocol):
    """A batch of teacher-forced samples; `models.encoding.encode(..., answers=...)` makes them."""

    @property
    def inputs(self) -> dict[str, Tensor]: ...
    @property
    def answer_mask(self) -> Tensor | None: ...
    @property
    def samples(self) -> Sequence[Any]: ...


def collect_exit_table(
    model: Any,
    batches: Iterable[EncodedBatch],
    layers: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
    cache_dir: str | Path | None = None,
    target: str = "answer",
    share_images: bool = True,
    dtype: torch.dtype = torch.float16,
) -> ExitTable:
    """Loss, answer and gate features of every candidate exit of every sample.

    Batches in which several questions share an image are several times cheaper (`models.encoding.group_by_image`).

    Args:
        model: a supported model without a policy attached.
        batches: encoded with answers. May be a generator; a batch found in `cache_dir` is not run. Several processes
            share a sequence of them, of which each encodes its own (`models.encoding.LazyBatches`).
        layers: candidate exits; None: all from the first prunable layer on.
        progress: called with the number of samples after each batch.
        cache_dir: one file a batch is kept there, so a run that was killed goes on; files of another model, other
            samples or other settings are not used.
        target: what the answers are, written into the table.
        share_images: False: each batch as one padded run (the reference implementation).
        dtype: of the features.

    Raises:
        DataError: a batch has no answers, or there is no batch.
    """
    anatomy = anatomy_of(model)
    anatomy.require_inside("A table of exits")
    rule = GreedyRule.of(model)
    candidates = tuple(layers) if layers is not None else tuple(range(anatomy.first_prunable_layer, anatomy.num_layers))

    def make(batch: EncodedBatch) -> ExitTable:
        with torch.no_grad():
            return _table(anatomy, batch, candidates, target, share_images, dtype, rule)

    return cached_tables(
        batches, make, (candidates, target, dtype), lambda: provenance(model=model), cache_dir, progress
    )


def cached_tables(
    batches: Iterable[EncodedBatch],
    make: Callable[[EncodedBatch], ExitTable],
    settings: tuple[tuple[int, ...], str, torch.dtype],
    depends: Callable[[], Mapping[str, Any]],
    cache_dir: str | Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> ExitTable:
    """The tables of all batches as one; a batch whose file lies in `cache_dir` is not made again.

    Args:
        batches, cache_dir, progress: as for `collect_exit_table`.
        make: the table of one batch.
        settings: candidate layers, target and dtype: what a file is good for, beside the batch's own tensors.
        depends: provenance of model, library (and policies on the model); asked once, where there is a cache.

    Raises:
        DataError: a batch has no answers, or there is no batch.
    """
    known = provenance_key(depends()) if cache_dir is not None else ""
    several = processes().count > 1
    if several and cache_dir is None:
        raise SettingsError("Several processes hand each other their exit tables as files: give cache_dir.")

    def one(batch: EncodedBatch) -> ExitTable | tuple[Path, int]:
        if batch.answer_mask is None:
            raise DataError("The exit table needs answers: encode(processor, samples, device, answers=[...]).")
        file = None
        if cache_dir is not None:
            file = Path(cache_dir) / f"{_digest_of_batch(batch, *settings, known)}.safetensors"
        table = ExitTable.load(file) if file is not None and file.exists() else None
        if table is None:
            table = make(batch)
            if file is not None:
                table.save(file)
        return (file, len(table)) if several and file is not None else table

    def size(found: ExitTable | tuple[Path, int]) -> int:
        return len(found) if isinstance(found, ExitTable) else found[1]

    found = share(batches, one, size=size, progress=progress)
    return ExitTable.concat([one if isinstance(one, ExitTable) else _made_elsewhere(one[0]) for one in found])


def _made_elsewhere(file: Path) -> ExitTable:
    if not file.exists():
        raise DataError(
            f"Another process wrote {file}, and this one cannot see it: give a --cache (and --out) on a disk that all "
            "machines share."
        )
    return ExitTable.load(file)


def _table(
    anatomy: Anatomy, batch: EncodedBatch, layers: tuple[int, ...], target: str, share: bool, dtype: torch.dtype,
    rule: GreedyRule,
) -> ExitTable:  # fmt: skip
    """The table of one batch."""
    inputs = anatomy.with_positions(batch.inputs)
    layout = anatomy.layout(inputs["input_ids"], inputs["attention_mask"])
    images = [len(sample.images) for sample in batch.samples]
    groups, alone = groups_of(anatomy, layout, inputs, images) if share else ([], list(range(len(images))))
    assert batch.answer_mask is not None
    parts: list[tuple[list[int], ExitTable]] = []
    for rows, record in [*((group, record_shared) for group in groups), *([(alone, None)] if alone else [])]:
        own = rows_of(anatomy, inputs, rows, images)
        own_layout = _rows_of_layout(layout, rows)
        counts = [images[row] for row in rows]
        tape = record(anatomy, own_layout, own, counts) if record else record_tape(anatomy, own)
        ids = tuple(str(batch.samples[row].id) for row in rows)
        parts.append((rows, _judge(tape, own["input_ids"], batch.answer_mask[rows], layers, ids, target, dtype, rule)))
    order = [row for rows, _ in parts for row in rows]
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return ExitTable.concat([table for _, table in parts]).subset(inverse)


def _judge(
    tape: Tape,
    ids: Tensor,
    answers: Tensor,
    layers: tuple[int, ...],
    names: tuple[str, ...],
    target: str,
    dtype: torch.dtype,
    rule: GreedyRule,
) -> ExitTable:
    """All exits of the rows of one tape, against their answers (bool [B, S])."""
    # 1. Each answer token is predicted one position before it.
    where, real = answer_places(answers)  # [B, A]
    wanted = ids.gather(1, where)
    columns = torch.where(real, where, where[:, :1]) - 1  # rows with fewer tokens repeat their first
    slots = tape.slots(columns)

    def evaluate(states: Tensor) -> tuple[Tensor, Tensor]:
        logits = tape.logits(gather_rows(states, slots)).float()  # [B, A, vocabulary]
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")
        return (losses * real).sum(1) / real.sum(1), rule.tokens(logits, ids, columns, ~tape.layout.padding)

    # 2. The full run, then each exit.
    full_loss, full_said = evaluate(tape.entering[-1])
    loss, match, agree = [], [], []
    for states in tape.exit_states(layers):
        exit_loss, said = evaluate(states)
        loss.append(exit_loss)
        match.append(((said == wanted) | ~real).all(1))
        agree.append(((said == full_said) | ~real).all(1))

    # 3. What a gate would see: the prompt alone.
    layout = tape.layout
    prompt = TokenLayout(layout.visual, layout.text & ~answers, layout.padding | answers, layout.spans)
    return ExitTable(
        layers=layers,
        ids=names,
        features=tape.features(layers, prompt).to(dtype).cpu(),
        loss=torch.stack(loss, 1).cpu(),
        full_loss=full_loss.cpu(),
        match=torch.stack(match, 1).cpu(),
        full_match=((full_said == wanted) | ~real).all(1).cpu(),
        agree=torch.stack(agree, 1).cpu(),
        target=target,
    )


def _rows_of_layout(layout: TokenLayout, rows: list[int]) -> TokenLayout:
    spans = tuple(layout.spans[row] for row in rows)
    return TokenLayout(layout.visual[rows], layout.text[rows], layout.padding[rows], spans)


def _digest_of_batch(
    batch: EncodedBatch, layers: tuple[int, ...], target: str, dtype: torch.dtype, depends: str
) -> str:
    digest = sha256(repr((layers, target, str(dtype), [str(s.id) for s in batch.samples], depends)).encode())
    for name, value in sorted(batch.inputs.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    assert batch.answer_mask is not None
    digest.update(batch.answer_mask.cpu().numpy().tobytes())
    return digest.hexdigest()[:24]
