"""Tapes of many questions about one image, for the price of one image: the prefix up to the image runs once.

The questions run as one batch behind the prefix's KV cache. Text before the image never sees the image, so its keys and
values are the same for every exit and every question: the replayed suffixes take them from the full run. The
reference implementation is `record_tape` on each sample alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...anatomy.base import Anatomy
from ...anatomy.inputs import BY_ROW
from ...core.errors import DataError
from ...core.layout import TokenLayout
from ..prefill.decoder_call import LayerCall
from .tape import LayerState, Tape, record_layers

__all__ = ["groups_of", "record_shared", "rows_of"]


def rows_of(
    anatomy: Anatomy, inputs: Mapping[str, Tensor], rows: Sequence[int], images: Sequence[int]
) -> dict[str, Tensor]:
    """The inputs of some rows of a batch.

    Image inputs have an entry a row, an entry an image, or (patches, tiles) as many as its visual tokens ask for.

    Args:
        rows: rows that are wanted, in order.
        images: number of images of each row of the whole batch.

    Raises:
        DataError: an image input cannot be told apart by rows.
    """
    taken = {name: inputs[name][list(rows)] for name in BY_ROW if name in inputs}
    if not any(images[row] for row in rows):
        return taken
    counts = anatomy.layout(inputs["input_ids"]).visual_counts.tolist()
    for name, value in inputs.items():
        if name in BY_ROW:
            continue
        if anatomy.images_by_row:
            taken[name] = value[list(rows)]
            continue
        share = images if len(value) == sum(images) else _shares(name, len(value), counts)
        first = [sum(share[:row]) for row in range(len(share))]
        taken[name] = value[[first[row] + i for row in rows for i in range(share[row])]]
    return taken


def _shares(name: str, entries: int, counts: Sequence[int]) -> list[int]:
    """How many of an image input's entries belong to each row: as many as its visual tokens ask for."""
    if any(entries * count % sum(counts) for count in counts):
        raise DataError(
            f"{name} has {entries} entries for {sum(counts)} visual tokens, so they cannot be told apart by rows. "
            "Give batches of one row."
        )
    return [entries * count // sum(counts) for count in counts]


def groups_of(
    anatomy: Anatomy, layout: TokenLayout, inputs: Mapping[str, Tensor], images: Sequence[int]
) -> tuple[list[list[int]], list[int]]:
    """Rows of a batch that share their image and all text before it.

    Returns:
        (groups of rows, rows that must run alone: no image, text between images, or nothing after them; all rows, where
        positions, masks or other arguments of this family's layers depend on more than the prefix).
    """
    more = not anatomy.prefix_is_causal or anatomy.has_windows or bool(anatomy.row_arguments)
    if anatomy.first_position != 0 or more:
        return [], list(range(len(images)))
    groups: dict[Any, list[int]] = {}
    alone: list[int] = []
    for row, spans in enumerate(layout.spans):
        ends = [(span.start, span.start + span.length) for span in spans]
        together = all(end == start for (_, end), (start, _) in pairwise(ends))
        if not ends or not together or not bool(layout.text[row, ends[-1][1] :].any()):
            alone.append(row)
            continue
        real = ~layout.padding[row, : ends[-1][1]]
        prefix = inputs["input_ids"][row, : ends[-1][1]][real]
        pictures = {name: t for name, t in rows_of(anatomy, inputs, [row], images).items() if name not in BY_ROW}
        digest = sha256(b"".join(name.encode() + _bytes(t) for name, t in sorted(pictures.items())))
        groups.setdefault((tuple(prefix.tolist()), digest.digest()), []).append(row)
    return list(groups.values()), alone


def record_shared(anatomy: Anatomy, layout: TokenLayout, inputs: Mapping[str, Tensor], images: Sequence[int]) -> Tape:
    """The tape of rows that share their prefix (`groups_of`); its slots are the text after the image.

    Args:
        layout, inputs, images: of these rows alone.
    """
    # 1. The prefix, once.
    end = layout.spans[0][-1].start + layout.spans[0][-1].length
    start = layout.spans[0][0].start
    prefix = {name: value for name, value in rows_of(anatomy, inputs, [0], images).items() if name != "position_ids"}
    before = int(layout.text[0, :start].sum())
    real = ~layout.padding[0, :end]
    prefix["input_ids"] = inputs["input_ids"][:1, :end][:, real]
    prefix["attention_mask"] = torch.ones_like(prefix["input_ids"])
    cache = anatomy.backbone(**prefix, use_cache=True).past_key_values
    length = prefix["input_ids"].shape[1]
    own = [(layer.keys[:, :, :before].clone(), layer.values[:, :, :before].clone()) for layer in cache.layers]

    # 2. The questions behind it, padded on the right, where causal attention never sees the padding.
    after = torch.stack(
        [_after(layout.text[row], spans[-1].start + spans[-1].length) for row, spans in enumerate(layout.spans)]
    )
    counts = after.sum(1)
    width = int(counts.max())
    index = (~after).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
    valid = after.gather(1, index)
    ids = inputs["input_ids"].gather(1, index)
    positions = torch.arange(length, length + width, device=ids.device)[None]

    def narrow(call: LayerCall) -> tuple[Tensor, LayerState]:
        mask = call.kwargs.get("attention_mask")
        if mask is not None:  # keys of the text before the image, then of the questions
            mask = torch.cat([mask[..., :before], mask[..., length:]], dim=-1)[:1]
            mask = None if before == 0 and anatomy.attention == "sdpa" else mask
        return call.hidden, LayerState(mask, call.kwargs["position_embeddings"], own[call.layer] if before else None)

    cache.batch_repeat_interleave(len(ids))
    with record_layers(anatomy, narrow, {}) as (entering, layers):
        anatomy.language_model(
            inputs_embeds=anatomy.language_model.get_input_embeddings()(ids),  # type: ignore[operator]
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
    return Tape(anatomy, layout, index, valid, entering, layers)


def _after(text: Tensor, end: int) -> Tensor:
    return text & (torch.arange(len(text), device=text.device) >= end)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
