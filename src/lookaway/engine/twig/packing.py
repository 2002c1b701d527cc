"""Several samples in one row of a twig's layers, each of which sees itself alone: little is computed for padding.

What layer K is called with says all that has to be known, whatever the family: its rows, its mask and its rotary
phases. The real slots of a batch are put into as few rows as hold them, none longer than the longest sample, so that
attention never costs more than in the padded batch. The mask is the batch's own, slot by slot, and closed between
samples. (transformers' `DataCollatorWithFlattening` packs ids, without pictures, and into one row.)
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.errors import UnsupportedModel
from ..prefill.decoder_call import LayerCall
from .growth import LiveTwig

__all__ = ["Packing", "Slots", "cannot_pack", "fill_rows", "packed_states"]

KNOWN = frozenset({"hidden_states", "attention_mask", "position_embeddings", "position_ids", "cache_position"})
"""Tensors that a decoder layer is called with and that are packed here, or that say nothing without a cache."""


@dataclass(frozen=True)
class Packing:
    """Which slots of a padded batch [B, S] stand where in the packed one [R, P]."""

    rows: Tensor
    """int64 [R, P]."""
    columns: Tensor
    """int64 [R, P]."""
    samples: Tensor
    """int64 [R, P]: the row of the batch again; -1: the slot pads."""

    @classmethod
    def of(cls, real: Tensor) -> Packing:
        """For `real` bool [B, S], slots that do not only pad."""
        lengths = real.sum(1).tolist()
        filled = fill_rows(lengths, max(lengths))
        width = max(sum(lengths[sample] for sample in row) for row in filled)
        places = torch.zeros(2, len(filled), width, dtype=torch.int64, device=real.device)
        samples = torch.full((len(filled), width), -1, device=real.device)
        for i, row in enumerate(filled):
            first = 0
            for sample in row:
                slots = slice(first, first + lengths[sample])
                places[0, i, slots], places[1, i, slots] = sample, real[sample].nonzero()[:, 0]
                samples[i, slots], first = sample, slots.stop
        return cls(places[0], places[1], samples)

    def pack(self, values: Tensor) -> Tensor:
        """[B or 1, S, ...] -> [R, P, ...]."""
        return values[self.rows.to(values.device) if len(values) > 1 else 0, self.columns.to(values.device)]

    def unpack(self, values: Tensor, shape: torch.Size) -> Tensor:
        """[R, P, D] -> [B, S, D]; zeros where a slot pads."""
        real = self.samples >= 0
        return values.new_zeros(shape).index_put((self.rows[real], self.columns[real]), values[real])

    def mask(self, mask: Tensor) -> Tensor:
        """[B or 1, H, S, S], bool or added to scores -> [R, H, P, P]; a slot that pads sees itself: no NaN."""
        rows = self.rows if len(mask) > 1 else torch.zeros_like(self.rows)
        packed = mask[rows[:, :, None], :, self.columns[:, :, None], self.columns[:, None]].movedim(-1, 1)
        apart = (self.samples[:, :, None] != self.samples[:, None])[:, None]
        itself = torch.diag_embed(self.samples < 0)[:, None]
        if mask.dtype == torch.bool:
            return packed & ~apart | itself
        return packed.masked_fill(apart, torch.finfo(mask.dtype).min).masked_fill(itself, 0.0)


@dataclass
class Slots:
    """How a twig runs over padded batches: with samples packed into rows, or as they are; and over how many slots."""

    packs: bool = False
    ran: int = 0
    padded: int = 0
    """As many would have been run over without packing."""

    def run(self, twig: LiveTwig, call: LayerCall, real: Tensor) -> Tensor:
        """The twig on a call of layer K: [B, S, D], right where `real` bool [B, S] is."""
        if self.packs and (reason := cannot_pack(call)) is not None:
            warnings.warn(
                f"Samples are not packed into rows: {reason}. Batches stay padded; the loss is the same.",
                UserWarning, stacklevel=2,
            )  # fmt: skip
            self.packs = False
        states, ran = packed_states(twig, call, real) if self.packs else (twig(call), real.numel())
        self.ran, self.padded = self.ran + ran, self.padded + real.numel()
        return states


def packed_states(twig: LiveTwig, call: LayerCall, real: Tensor) -> tuple[Tensor, int]:
    """What `twig(call)` gives for the real slots, and how many slots it ran over.

    Args:
        call: of layer K, of a padded batch, without a cache; `cannot_pack` finds nothing against it.
        real: bool [B, S], slots that do not only pad.

    Returns:
        float [B, S, D], zeros where a slot pads; R * P.

    Raises:
        UnsupportedModel: rows are of different length, and there is no mask.
    """
    packing = Packing.of(real)
    if len(packing.rows) == len(real):
        return twig(call), real.numel()
    mask, positions = call.kwargs.get("attention_mask"), call.kwargs.get("position_ids")
    if not isinstance(mask, Tensor):
        raise UnsupportedModel(f"Attention {call.attention!r} got no mask for a padded batch. Train with --no-pack.")
    changed: dict[str, Any] = {
        "attention_mask": packing.mask(mask),
        "position_embeddings": tuple(_phases(packing, part) for part in call.kwargs["position_embeddings"]),
    }
    if positions is not None:  # [..., B or 1, S]
        changed["position_ids"] = packing.pack(positions.movedim((-2, -1), (0, 1))).movedim((0, 1), (-2, -1))
    narrow = call.with_rows(packing.pack(call.hidden)).with_keywords(**changed)
    return packing.unpack(twig(narrow), call.hidden.shape), packing.rows.numel()


def cannot_pack(call: LayerCall) -> str | None:
    """Why the samples of this batch cannot share rows, in words; None: they can."""
    if call.row_arguments():
        return f"its layers are told of each row as a whole ({', '.join(call.row_arguments())})"
    others = [name for name, value in call.kwargs.items() if isinstance(value, Tensor) and name not in KNOWN]
    if others or any(isinstance(value, Tensor) for value in call.args[1:]):
        return f"its layers are called with {', '.join(others) or 'tensors by position'}, of which nobody said how"
    mask, phases = call.kwargs.get("attention_mask"), call.kwargs.get("position_embeddings")
    if mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 4):
        form = f"{mask.dim()} dimensions" if isinstance(mask, Tensor) else type(mask).__name__
        return f"attention {call.attention!r} masks with {form}, and only a mask of all pairs can tell samples apart"
    if not isinstance(phases, tuple):
        return f"its rotary embeddings are {type(phases).__name__}, not (cos, sin)"
    return None


def fill_rows(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Which samples share a row of at most `most` slots: the longest first, each where it still fits."""
    rows: list[list[int]] = []
    free: list[int] = []
    for sample in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = next((i for i, left in enumerate(free) if left >= lengths[sample]), None)
        if at is None:
            rows.append([])
            free.append(most)
            at = len(rows) - 1
        rows[at].append(sample)
        free[at] -= lengths[sample]
    return rows


def _phases(packing: Packing, part: Tensor) -> Tensor:
    """[B or 1, S, d]; [3, B or 1, S, d] where a decoder mixes three kinds of positions in the attention itself."""
    return torch.stack([packing.pack(one) for one in part]) if part.dim() == 4 else packing.pack(part)
