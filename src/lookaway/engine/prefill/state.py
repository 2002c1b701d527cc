"""One prompt on its way through the decoder, as a value: what is left of it, and what happened to it. Knows no model.

Each method returns the next state; `step.py` and the skipped layers call them, and nobody writes a state's fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...core.errors import DataError
from ...core.layout import TokenLayout
from ..cache.kept import Kept, key_columns
from ..cache.pruned_cache import PrunedCacheInfo
from .decoder_call import gather_rows
from .history import Change, PrefillHistory
from .renumbering import NewNumbers
from .row_groups import Group, make_groups

__all__ = ["PrefillState", "Removal", "compact"]


@dataclass(frozen=True, eq=False)
class Removal:
    """Slots that stay at a layer before which others leave: a decision that was checked."""

    index: Tensor  # int64 [B, K]
    valid: Tensor  # bool [B, K]
    lengths: tuple[int, ...]
    """Valid slots of each row."""
    has_visual_tokens: bool
    """Some row still has visual tokens."""
    longest_question: int | None = None
    """`HostFacts.longest_question` of what stays; None: not read."""
    values: Tensor | None = None  # [B, S, D]
    """States that the policy changed by merging what leaves into what stays, over the slots before; None: none."""
    changed: Tensor | None = None  # bool [B, S]
    """Slots whose states those are: visual tokens that stay."""

    def rows(self, hidden: Tensor) -> Tensor:
        """What stays of the states `hidden` [B, S, D]: [B, K, D]."""
        if self.values is not None and self.changed is not None:
            values = self.values.to(hidden.device, hidden.dtype)
            hidden = torch.where(self.changed.to(hidden.device)[:, :, None], values, hidden)
        return gather_rows(hidden, self.index)


@dataclass(frozen=True, eq=False)
class PrefillState:
    """The state of one prefill before some layer. `begin` makes the first."""

    initial: TokenLayout
    """Layout of the whole prompt, [B, S]."""
    past: PrunedCacheInfo
    """What the cache held when the prompt came: earlier turns."""
    answers: Tensor | None  # bool [B, S]
    """Columns that are teacher-forced answers: policies and adapters do not see them, and they stay."""
    pad_right: bool
    history: PrefillHistory
    initial_visual: Tensor  # int64 [B]
    layout: TokenLayout
    """Layout of what is left, over the current slots."""
    has_visual_tokens: bool
    """Some row still has visual tokens (known on the host)."""
    kept_at: tuple[Kept | None, ...]  # [L]
    """What was left for each layer whose attention has run."""
    kept: Kept | None = None
    """Columns of the prompt that are left; None: all."""
    groups: tuple[Group, ...] = ()
    """The same in groups of rows that may run apart."""
    shift: Tensor | None = None  # int64 [B]
    """Places by which all that comes after this prompt is moved back; None: nothing was numbered anew."""
    rotary: tuple[Tensor, ...] | None = None
    """Cosines and sines of the prompt's columns where they were made anew; None: those that the layers are given."""
    removals: Mapping[int, Removal] = field(default_factory=dict)
    """By the layer before which something left."""
    marks: Mapping[int, Any] = field(default_factory=dict)
    """What each layer's call is known by (`LayerCall.mark`): a layer that a backward pass runs again has the same."""
    cuts: Mapping[int, Tensor] = field(default_factory=dict)
    """Slots that were still needed, index [B, K], at each layer of the tail before which others were let go."""
    pools: Mapping[int, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    """For each skipped layer that has run: slots that its context comes from [B, S]; their mean, if shared."""
    shared_pools: Mapping[Any, Tensor] = field(default_factory=dict)
    """Means [B, D] that a run of skipped layers shares."""

    @classmethod
    def begin(
        cls,
        layout: TokenLayout,
        num_layers: int,
        past: PrunedCacheInfo | None = None,
        answers: Tensor | None = None,
        kept: Kept | None = None,
        pad_right: bool | None = None,
    ) -> PrefillState:
        """The state before layer 0.

        Args:
            layout: of the prompt.
            past: of the cache that it comes behind; None: there is none.
            answers: bool [B, S], teacher-forced answers among the prompt's columns.
            kept: names the prompt's columns, where these rows are a part of a batch (`Kept.batch`).
            pad_right: where that batch pads its rows; None: read off the layout.

        Raises:
            DataError: `answers` does not fit the prompt.
        """
        if answers is not None:
            if answers.shape != layout.visual.shape:
                raise DataError(
                    f"The mask of answers has shape {tuple(answers.shape)}, the tokens {tuple(layout.visual.shape)}."
                )
            answers = answers.to(layout.visual.device)
        first = Change.of(0, layout)
        has_visual_tokens = any(layout.spans)
        return cls(
            initial=layout,
            past=past or PrunedCacheInfo.of_whole(num_layers, 0),
            answers=answers,
            pad_right=has_visual_tokens and _pads_right(layout) if pad_right is None else pad_right,
            history=PrefillHistory(num_layers, has_visual_tokens, (first,)),
            initial_visual=first.visual,
            layout=layout,
            has_visual_tokens=has_visual_tokens,
            kept_at=(None,) * num_layers,
            kept=kept,
        )

    @property
    def length(self) -> int:
        """Columns of the whole prompt, S."""
        return self.history.length

    @property
    def num_layers(self) -> int:
        return len(self.kept_at)

    @property
    def removed_any(self) -> bool:
        """Some layer's cache does not hold all columns of this prompt or of those before it."""
        return {*self.kept_at, *self.past.kept_at} != {None}

    @property
    def removed(self) -> bool:
        """Outputs are not of all columns of the prompt."""
        return self.kept is not None

    def all_kept(self) -> Kept:
        """Columns of the prompt that are left, also where that is all of them."""
        return self.kept or _all_columns(self.initial)

    def answers_left(self) -> Tensor | None:
        """Which of the current slots are teacher-forced answers, bool [B, K]; None: nobody marked any."""
        if self.answers is None or self.kept is None:
            return self.answers
        return self.answers.gather(1, self.kept.index) & self.kept.valid

    # the next state --------------------------------------------------------------------------------------------------

    def without(self, layer: int, removal: Removal, numbers: NewNumbers | None = None) -> PrefillState:
        """After a removal before `layer`; `numbers`: what stays is numbered anew (before the decoder alone)."""
        width = removal.index.shape[1]
        before = self.all_kept()
        kept = before.select(removal.index, removal.valid, full=min(removal.lengths) == width)
        shift, rotary = self.shift, self.rotary
        if numbers is not None:
            kept, shift, rotary = replace(kept, places=numbers.places), numbers.shift, numbers.rotary
        layout = self.layout.gather(removal.index, removal.valid, removal.longest_question)
        return replace(
            self,
            kept=kept,
            shift=shift,
            rotary=rotary,
            layout=layout,
            groups=tuple(make_groups(kept, removal.lengths, self.pad_right)),
            has_visual_tokens=removal.has_visual_tokens,
            removals={**self.removals, layer: removal},
            history=self.history.removed(layer, layout),
        )

    def noted(self, layer: int, notes: Mapping[str, Tensor]) -> PrefillState:
        """With what the policy noted before `layer`."""
        return replace(self, history=self.history.noted(layer, notes)) if notes else self

    def entering(self, layer: int, mark: Any, attends: bool) -> PrefillState:
        """With `layer` running on what is left now."""
        kept_at = self.kept_at
        if attends and self.kept is not None:
            kept_at = (*kept_at[:layer], self.kept, *kept_at[layer + 1 :])
        return replace(self, kept_at=kept_at, marks={**self.marks, layer: mark})

    def entered(self, marks: Mapping[int, Any]) -> PrefillState:
        """With several layers having run on what is left now, their attention included: layer -> its mark."""
        kept_at = self.kept_at
        if self.kept is not None:
            kept_at = tuple([self.kept if layer in marks else kept for layer, kept in enumerate(kept_at)])
        return replace(self, kept_at=kept_at, marks={**self.marks, **marks})

    def cut(self, layer: int, index: Tensor, valid: Tensor) -> PrefillState:
        """After only the slots `index` [B, K] run on from `layer`, behind the last attention; `valid` [B, K]."""
        before = self.all_kept()
        layout = self.layout.gather(index, valid)
        return replace(
            self,
            kept=before.select(index, valid, full=False),
            layout=layout,
            has_visual_tokens=False,
            cuts={**self.cuts, layer: index},
            history=self.history.cut(layer, layout),
        )

    def pooled(self, layer: int, mask: Tensor, shared: Tensor | None, means: Mapping[Any, Tensor]) -> PrefillState:
        """With the slots that the context of a skipped layer came from, and the means that its run shares by now."""
        return replace(self, pools={**self.pools, layer: (mask, shared)}, shared_pools=means)

    # what comes of it ------------------------------------------------------------------------------------------------

    def cache_info(self) -> PrunedCacheInfo:
        """What the cache holds after this prompt, of its columns and those before it."""
        before, length = self.past.length, self.past.length + self.length
        pairs = list(zip(self.kept_at, self.past.kept_at, strict=True))
        held: dict[tuple[int, int], Kept | None] = {}
        for new, past in pairs:
            if new is None and past is None:
                held[id(new), id(past)] = None
            elif (id(new), id(past)) not in held:
                index, valid = key_columns(new, past, before, self.length)
                full = (new is None or new.full) and (past is None or past.full)
                held[id(new), id(past)] = Kept(index, valid, full)
        kept_at = tuple([held[id(new), id(past)] for new, past in pairs])
        shifts = [shift for shift in (self.shift, self.past.shift) if shift is not None]
        shift = torch.stack(shifts).sum(0) if shifts else None
        return PrunedCacheInfo(kept_at, length, self.pad_right or self.past.pad_right, shift)

    def layers_seen(self) -> Tensor:
        """Decoder layers that processed each column of the prompt, int64 [B, S], skipped attentions included.

        Of rows that looked again it is the pass they ended with. Behind the last attention only positions that
        generation needs run on, which no visual token is.
        """
        seen = torch.zeros_like(self.initial.visual, dtype=torch.int64)
        kept: Kept | None = None
        for layer, held in enumerate(self.kept_at):
            if layer in self.cuts:
                break
            if held is not None:
                kept = held
            elif layer in self.removals:  # before a skipped attention, which holds no columns
                removal = self.removals[layer]
                kept = (kept or _all_columns(self.initial)).select(removal.index, removal.valid, full=False)
            seen = seen + 1 if kept is None else seen.scatter_add(1, kept.index, kept.valid.to(seen.dtype))
        return seen

    def columns(self) -> tuple[Tensor, Tensor]:
        """Original columns that the outputs stand for, `(index [B, K], valid [B, K])`; padding is not valid."""
        kept = self.all_kept()
        return kept.index, kept.valid & ~self.layout.padding


def compact(keep: Tensor, most: int, pad_right: bool) -> tuple[Tensor, Tensor]:
    """Slots that stay, in order, as a rectangle: `(index [B, K], valid [B, K])`.

    Args:
        keep: bool [B, S], slots that stay.
        most: largest number of them in a row, K.
        pad_right: where rows that keep fewer get their padding; else left, so that the last token stays last.
    """
    if pad_right:
        index = (~keep).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
    else:
        index = keep.to(torch.uint8).argsort(dim=1, stable=True)[:, keep.shape[1] - most :]
    return index, keep.gather(1, index)


def _pads_right(layout: TokenLayout) -> bool:
    known = layout.facts.pads_right
    return bool(layout.padding[:, -1].any()) if known is None else known


def _all_columns(layout: TokenLayout) -> Kept:
    rows, columns = layout.visual.shape
    index = torch.arange(columns, device=layout.visual.device).expand(rows, -1)
    return Kept(index, torch.ones_like(layout.visual), full=True)
