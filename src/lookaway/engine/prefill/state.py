"""One prompt on its way through the decoder: what is left of it, and what happened to it. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor

from ...core.attention_inputs import AttentionInputs
from ...core.cost import DecoderShape
from ...core.decision import Decision, LayerView, Policy
from ...core.errors import InvalidDecision
from ...core.layout import TokenLayout
from ...core.record import Trace
from ..cache.pruned_cache import PrunedCacheInfo
from .decoder_call import Kept, keys
from .row_groups import Group, make_groups

__all__ = ["PrefillState", "compact"]


class PrefillState:
    """The state of one prefill: asked layer by layer, it turns decisions into kept columns."""

    def __init__(self, layout: TokenLayout, num_layers: int, past: PrunedCacheInfo | None = None) -> None:
        self.initial = layout
        self.past = past or PrunedCacheInfo([None] * num_layers, 0)
        """What the cache held when the prompt came: earlier turns."""
        self.layout = layout
        """Layout of what is left, over the current slots."""
        self.length = layout.visual.shape[1]
        self.num_layers = num_layers
        self.kept: Kept | None = None
        """Columns of the prompt that are left; None: all."""
        self.groups: list[Group] = []
        """The same in groups of rows that may run apart."""
        self.cache: Any = None
        """The KV cache that is being filled, where there is one."""
        self.kept_at: list[Kept | None] = [None] * num_layers
        """What was left for each layer that has run."""
        self.kept_slots: dict[int, tuple[Tensor, Tensor]] = {}
        """Slots that stayed, `(index, valid)`, at each layer before which some left."""
        self.marks: dict[int, Any] = {}
        """What each layer's call of this prompt's forward was known by; tells a recomputed layer to whom it belongs."""
        self.tail: int | None = None
        """Layer from which on only positions that are still needed run: no attention comes after it."""
        self.cut_at: dict[int, Tensor] = {}
        """Slots that were still needed, index [B, K], at each layer before which others were let go for that reason."""
        self.pools: dict[int, tuple[Tensor, Tensor | None]] = {}
        """For each skipped layer that has run: slots that its context comes from [B, S]; their mean, if shared."""
        self.shared_pools: dict[Any, Tensor] = {}
        """Means [B, D] that a run of skipped layers shares."""
        self.has_visual_tokens = any(layout.spans)
        """Some row still has visual tokens (known on the host)."""
        self.pad_right = self.has_visual_tokens and bool(layout.padding[:, -1].any())
        self._initial_visual = layout.visual_counts
        self._changes = [(0, layout.visual_counts, layout.counts, self.length)]
        self._decided = 1
        """So many of the changes came from the policy; the others are the tail's."""
        self._notes: dict[int, Mapping[str, Tensor]] = {}

    def fork(self) -> PrefillState:
        """A copy that goes its own way from here; tensors are shared."""
        other = copy(self)
        other.kept_at, other.kept_slots = list(self.kept_at), dict(self.kept_slots)
        other.cut_at, other.pools, other.shared_pools = dict(self.cut_at), dict(self.pools), dict(self.shared_pools)
        other._changes, other._notes = list(self._changes), dict(self._notes)
        return other

    def ask(
        self, policy: Policy, layer: int, hidden: Tensor, attention_inputs: AttentionInputs | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """Ask the policy before `layer` about the current slots, whose states are `hidden` [B, S, D].

        Returns:
            The slots that stay, `(index [B, K], valid [B, K])`; None where nothing leaves.

        Raises:
            InvalidDecision: the policy drops text or answers something that is no mask of the slots.
        """
        view = LayerView(layer, self.num_layers, self.layout, hidden, self._initial_visual, attention_inputs)
        decision = policy.decide(view)
        if not isinstance(decision, Decision):
            raise InvalidDecision(f"Policy {_name(policy)} answered {type(decision).__name__}, not a Decision.")
        if decision.notes:
            self._notes[layer] = decision.notes
        if decision.keep is None:
            return None
        keep = _checked(decision.keep, self.layout, policy, layer)

        # All that the host must know, in one read.
        counts = keep.sum(dim=1)
        sums = [self.layout.counts.sum(), (keep & self.layout.visual).sum(), (self.layout.text & ~keep).sum()]
        real, seen, text_lost, *lengths = torch.cat([torch.stack(sums), counts]).tolist()
        if text_lost:
            raise InvalidDecision(
                f"Policy {_name(policy)} dropped {text_lost} text tokens before layer {layer}; only visual tokens may "
                "leave. Set keep to True wherever view.layout.visual is False."
            )
        if sum(lengths) == real:
            return None
        index, valid = compact(keep, max(lengths), self.pad_right)
        before = self.kept or _everything(self.initial)
        self.kept = before.select(index, valid, full=min(lengths) == index.shape[1])
        self.groups = make_groups(self.kept, lengths, self.pad_right)
        self.layout = self.layout.gather(index, valid)
        self.has_visual_tokens = seen > 0
        self._changes.append((layer, self.layout.visual_counts, self.layout.counts, index.shape[1]))
        self._decided = len(self._changes)
        self.kept_slots[layer] = (index, valid)
        return index, valid

    def cut(self, layer: int, index: Tensor, valid: Tensor) -> None:
        """Only the slots `index` [B, K] run on from `layer`, behind the last attention; `valid` [B, K]."""
        before = self.kept or _everything(self.initial)
        self.kept = before.select(index, valid, full=False)
        self.layout = self.layout.gather(index, valid)
        self.has_visual_tokens = False
        self.cut_at[layer] = index
        self.tail = layer if self.tail is None else self.tail
        self._changes.append((layer, self.layout.visual_counts, self.layout.counts, index.shape[1]))

    def memory(self) -> PrunedCacheInfo:
        """What the cache holds after this prompt, of its columns and those before it."""
        before, length = self.past.length, self.past.length + self.length
        held: dict[tuple[int, int], Kept | None] = {}
        for new, past in zip(self.kept_at, self.past.kept_at, strict=True):
            if new is None and past is None:
                held[id(new), id(past)] = None
            elif (id(new), id(past)) not in held:
                index, valid = keys(new, past, before, self.length)
                full = (new is None or new.full) and (past is None or past.full)
                held[id(new), id(past)] = Kept(index, valid, full)
        pairs = zip(self.kept_at, self.past.kept_at, strict=True)
        return PrunedCacheInfo(
            [held[id(new), id(past)] for new, past in pairs], length, self.pad_right or self.past.pad_right
        )

    def trace(self, shape: DecoderShape) -> Trace:
        """What happened, as plain numbers."""
        visual: list[list[int]] = []
        tokens: list[list[int]] = []
        slots: list[int] = []
        changes = [(layer, v.tolist(), t.tolist(), n) for layer, v, t, n in self._changes]
        for layer in range(self.num_layers):
            _, v, t, n = [change for change in changes if change[0] <= layer][-1]
            visual.append(v)
            tokens.append(t)
            slots.append(n)
        decided = [[v for at, v, *_ in changes[: self._decided] if at <= layer][-1] for layer in range(self.num_layers)]
        exits = [_exit_layer([layer[row] for layer in decided]) for row in range(len(visual[0]))]
        notes = {
            layer: {name: torch.as_tensor(value).detach().float().tolist() for name, value in values.items()}
            for layer, values in self._notes.items()
        }
        return Trace(shape, exits, visual, tokens, slots, notes, tail=self.tail)

    def columns(self) -> tuple[Tensor, Tensor]:
        """Original columns that the outputs stand for, `(index [B, K], valid [B, K])`; padding is not valid."""
        kept = self.kept or _everything(self.initial)
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


def _checked(keep: Tensor, layout: TokenLayout, policy: Policy, layer: int) -> Tensor:
    if not isinstance(keep, Tensor) or keep.dtype != torch.bool or keep.shape != layout.visual.shape:
        found = f"{keep.dtype} {tuple(keep.shape)}" if isinstance(keep, Tensor) else type(keep).__name__
        raise InvalidDecision(
            f"Policy {_name(policy)} must answer bool {tuple(layout.visual.shape)} before layer {layer}, not {found}."
        )
    return keep & ~layout.padding


def _everything(layout: TokenLayout) -> Kept:
    rows, columns = layout.visual.shape
    index = torch.arange(columns, device=layout.visual.device).expand(rows, -1)
    return Kept(index, torch.ones_like(layout.visual), full=True)


def _exit_layer(visual: list[int]) -> int | None:
    """First layer that saw none of a row's visual tokens; None for rows that had none or kept some."""
    if visual[0] == 0 or visual[-1] != 0:
        return None
    return visual.index(0)


def _name(policy: Policy) -> str:
    return policy.name or type(policy).__name__
