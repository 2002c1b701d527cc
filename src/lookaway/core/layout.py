"""Where the visual tokens, the text and the padding of a batch are.

Letters used for shapes everywhere in lookaway: B batch, S sequence, V visual tokens, K kept positions, D hidden size,
L decoder layers, T text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .attention_inputs import last_text_slot
from .errors import DataError

__all__ = ["HostFacts", "ImageSpan", "QuestionSlots", "TokenLayout"]


class ImageSpan(NamedTuple):
    """One contiguous run of visual tokens in one row."""

    start: int
    """First position of the run in the original (unpruned) sequence."""
    length: int
    """Number of visual tokens in it."""
    grid: tuple[int, int] | None = None
    """(rows, columns) of patches in raster order, where the anatomy knows it."""


class QuestionSlots(NamedTuple):
    """Slots of the question's tokens, the last of them apart (`TokenLayout.question_slots`)."""

    slots: Tensor
    """int64 [B, Q + 1]: the question's tokens but the last, filled up to the longest; then the last text token."""
    weights: Tensor
    """float32 [B, Q]: 1 / their number, 0 where a slot only fills up: the weights of their mean."""


class HostFacts(NamedTuple):
    """What the host knows of a layout without asking the device again; None: nothing."""

    last_columns: tuple[int, ...] | None = None
    """The last real column of each row, 0 where a row has none."""
    pads_right: bool | None = None
    """Some row has padding in its last column."""
    longest_question: int | None = None
    """Q of `TokenLayout.question_slots`."""


@dataclass(frozen=True)
class TokenLayout:
    """Which positions of this batch are visual, text, padding.

    The three masks are disjoint bool tensors [B, S] that together cover every position.
    """

    visual: Tensor  # bool [B, S]
    text: Tensor  # bool [B, S]
    padding: Tensor  # bool [B, S]
    spans: tuple[tuple[ImageSpan, ...], ...] = ()
    """Per row, the image spans in ORIGINAL positions; unchanged by pruning."""
    facts: HostFacts = field(default=HostFacts(), repr=False, compare=False)
    """Numbers of these masks that are on the host already."""

    @classmethod
    def from_masks(
        cls, visual: Tensor, attention_mask: Tensor | None = None, grid: tuple[int, int] | None = None
    ) -> TokenLayout:
        """Build a layout from a visual mask bool [B, S] and an attention mask [B, S] (1 = real token, None = all real).

        One copy to the host, from which spans and `facts` are taken.

        Raises:
            DataError: the masks differ in shape, or a visual token stands where there is padding.
        """
        if attention_mask is None:
            padding = torch.zeros_like(visual)
        else:
            if attention_mask.shape != visual.shape:
                raise DataError(
                    f"attention_mask has shape {tuple(attention_mask.shape)}, the tokens {tuple(visual.shape)}; "
                    "give one entry a token."
                )
            padding = attention_mask == 0
        seen, pads = torch.stack([visual, padding]).cpu()
        if bool((seen & pads).any()):
            raise DataError("An image token is masked out by attention_mask: padding must not cover the image.")
        spans = tuple(_spans(row, grid) for row in seen)
        last = (torch.arange(pads.shape[1]) * ~pads).amax(1) if pads.shape[1] else pads.sum(1)
        on_host = cls(seen, ~seen & ~pads, pads)
        facts = HostFacts(
            tuple(last.tolist()),
            bool(pads[:, -1:].any()),
            int(on_host.question_counts().max()) if pads.numel() else None,
        )
        return cls(visual, ~visual & ~padding, padding, spans, facts)

    @property
    def visual_counts(self) -> Tensor:
        """Visual tokens of each row, int64 [B]."""
        return self.visual.sum(dim=1)

    @property
    def counts(self) -> Tensor:
        """Real tokens (visual and text) of each row, int64 [B]."""
        return (~self.padding).sum(dim=1)

    def gather(self, index: Tensor, valid: Tensor, longest_question: int | None = None) -> TokenLayout:
        """The layout after keeping the columns `index` int64 [B, K]; slots where `valid` bool [B, K] is False pad.

        Args:
            longest_question: of the result (`HostFacts`), where the caller has read it.
        """
        return TokenLayout(
            self.visual.gather(1, index) & valid,
            self.text.gather(1, index) & valid,
            self.padding.gather(1, index) | ~valid,
            self.spans,
            HostFacts(longest_question=longest_question),
        )

    def to(self, device: torch.device) -> TokenLayout:
        """The layout on another device; itself where it is there already."""
        if self.visual.device == device:
            return self
        masks = {name: getattr(self, name).to(device) for name in ("visual", "text", "padding")}
        return replace(self, **masks)

    def rows(self, rows: Tensor, numbers: Sequence[int] | None = None) -> TokenLayout:
        """The layout of some rows, int64 [b].

        Args:
            numbers: the same, where they are on the host already; None: they are read.
        """
        numbers = rows.tolist() if numbers is None and self.spans else numbers
        spans = tuple(self.spans[row] for row in numbers) if self.spans and numbers is not None else ()
        return TokenLayout(self.visual[rows], self.text[rows], self.padding[rows], spans)

    def question_mask(self) -> Tensor:
        """Text after the first visual token of its row, bool [B, S]: the prompt less its system part.

        Rows without a visual token count all their text.
        """
        seen = self.visual.cumsum(dim=1) > 0
        without_image = ~self.visual.any(dim=1, keepdim=True)
        return self.text & (seen | without_image)

    def question_counts(self) -> Tensor:
        """Tokens of each row's question but its last, 1 where there is no other: Q of `question_slots` is the most of
        a row. int64 [B]"""
        return self._question_but_last()[1].sum(1)

    def _question_but_last(self) -> tuple[Tensor, Tensor]:
        """The last text slot int64 [B], and the question's other tokens bool [B, S] (the last where there are none)."""
        slots = torch.arange(self.text.shape[1], device=self.text.device)
        last = last_text_slot(self.text)  # [B]
        is_last = slots == last[:, None]  # [B, S]
        others = self.question_mask() & ~is_last
        return last, torch.where(others.any(1, keepdim=True), others, is_last)

    @cached_property
    def question_slots(self) -> QuestionSlots:
        """Where the question of each row is; found once a layout, since gates read it at every layer.

        One host read where `facts` does not know its length.
        """
        last, others = self._question_but_last()
        counts = others.sum(1, keepdim=True)
        known = self.facts.longest_question
        most = int(counts.max()) if known is None else known
        index = others.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        return QuestionSlots(torch.cat([index, last[:, None]], 1), others.gather(1, index) / counts)


def _spans(row: Tensor, grid: tuple[int, int] | None) -> tuple[ImageSpan, ...]:
    """Contiguous runs of True in a bool row [S]; a run longer than one image's grid is cut into images."""
    padded = torch.nn.functional.pad(row.int(), (1, 1))
    edges = padded.diff().nonzero().flatten().tolist()
    runs = [(start, stop - start) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
    if grid is None:
        return tuple(ImageSpan(start, length) for start, length in runs)
    size = grid[0] * grid[1]
    spans: list[ImageSpan] = []
    for start, length in runs:
        if length % size:
            spans.append(ImageSpan(start, length))
        else:
            spans.extend(ImageSpan(start + i, size, grid) for i in range(0, length, size))
    return tuple(spans)
