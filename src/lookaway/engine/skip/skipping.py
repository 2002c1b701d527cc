"""Attention blocks that do not run: the policy's skip set carried out on a live model.

A skipped layer keeps its modules in place. While a policy is attached, its attention's `forward` answers zeros, so that
q, k, v and o never run; the norm in front of it does nothing; and the norm in front of its FFN hands on what the
policy's replacement makes of the states. The prompt's context for a replacement is made in the layer's pre-hook,
travels with the call's keyword arguments (a layer that gradient checkpointing runs again finds its own) and lives in
the KV cache for decoding. Nothing of a run is kept here: it is in the prefill's state, in the call and in the cache.

Behind the last attention that is kept, tokens do not mix: only positions that generation needs run on there (`tail`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...anatomy.base import Anatomy
from ...core.decision import Policy
from ...core.errors import AttachError, SettingsError
from ...core.record import Trace
from ..cache.pruned_cache import PrunedCacheInfo
from ..cache.skipped_slot import SkippedSlot, slot_at
from ..prefill.decoder_call import LayerCall, gather_rows
from ..prefill.state import PrefillState, compact
from .outside import InFrontOfDecoder
from .skipped_layer import CONTEXT, SkippedLayer

__all__ = ["Skipping"]


class Skipping:
    """The skipped attentions of one attached policy.

    Args:
        anatomy: the model's.
        policy: its `skips` and `replacement` are asked, once.

    Raises:
        AttachError, ModelMismatch, SettingsError, UnsupportedModel: the set or a replacement does not fit the model.
    """

    def __init__(self, anatomy: Anatomy, policy: Policy) -> None:
        depth = anatomy.num_layers
        layers = tuple(policy.skips(depth))
        if list(layers) != sorted(set(layers)) or (layers and not 0 <= layers[0] <= layers[-1] < depth):
            raise AttachError(f"{policy!r} skips layers {list(layers)}; this decoder has layers 0 to {depth - 1}.")
        if len(layers) == depth:
            raise SettingsError(f"{policy!r} skips every attention of the decoder. Keep at least one.")
        if layers:
            anatomy.require_inside("Skipping attentions")
        self._anatomy, self._in_front = anatomy, InFrontOfDecoder()
        self.layers = {
            layer: SkippedLayer(anatomy, layer, policy.replacement(layer), self._in_front) for layer in layers
        }
        self.first_kept = next((layer for layer in range(depth) if layer not in layers), 0)
        last_kept = max(layer for layer in range(depth) if layer not in layers)
        self.tail = max(last_kept + 1, anatomy.first_prunable_layer)
        """First layer behind the last attention."""

    def __contains__(self, layer: int) -> bool:
        return layer in self.layers

    def install(self) -> list[Callable[[], object]]:
        """Let the skipped layers' modules answer as said above.

        Returns:
            What undoes it, to be called in reverse order.
        """
        watch = self._in_front.install(self._anatomy) if self.layers else []
        return [*watch, *(undo for layer in self.layers.values() for undo in layer.install())]

    @property
    def pools(self) -> bool:
        """Some replacement needs the whole prompt at once."""
        return any(layer.pools for layer in self.layers.values())

    # a skipped layer's call -------------------------------------------------------------------------------------------

    def enter(self, state: PrefillState, call: LayerCall, needed: int | None) -> tuple[PrefillState, LayerCall]:
        """A skipped layer's call in prefill, after `prefill_step`: with its context, without rows that nobody needs.

        Args:
            needed: positions at the end that the model's head asks for; None: all.
        """
        slot, stays = self.slot_for(call.cache, call.layer, behind=state.past.length > 0)
        if stays:
            context = slot.context if slot is not None else None
        else:
            answers = state.answers_left()
            text, real = state.layout.text, ~state.layout.padding
            if answers is not None:
                text, real = text & ~answers, real & ~answers
            mask = self.pool_mask(call.layer, text, real)
            context, shared, means = self.context(call.layer, call.hidden, mask, state.shared_pools)
            if mask is not None:
                state = state.pooled(call.layer, mask, shared, means)
        if slot is not None:
            slot.context, slot.known = context, True
        if needed is not None and call.layer >= self.tail:
            state, call = self._cut(state, call, needed)
        return state, call.with_keywords(**{CONTEXT: context})

    def continue_behind(self, call: LayerCall, needed: int | None) -> LayerCall:
        """The call of new tokens behind a cache that the prompt filled."""
        slot = slot_at(call.cache, call.layer, self.first_kept)
        if slot is None or not slot.known:
            raise _not_known(call.layer)
        if needed is not None and call.layer >= self.tail:
            call = call.with_rows(call.hidden[:, -needed:])
        return call.with_keywords(**{CONTEXT: slot.context})

    def repeat(self, state: PrefillState, call: LayerCall) -> LayerCall:
        """The call of a layer that gradient checkpointing runs again, hooks and all (transformers before 5.23)."""
        layer = self.layers[call.layer]
        context = None
        if layer.pools:
            assert layer.replacement is not None
            mask, shared = state.pools[call.layer]
            pooled = layer.mean(call.hidden, mask.to(call.hidden.device)) if shared is None else shared
            context = layer.replacement.context(pooled)
        if call.layer in state.cuts:
            call = call.with_rows(gather_rows(call.hidden, state.cuts[call.layer]))
        return call.with_keywords(**{CONTEXT: context})

    def sync_cache_lengths(self, cache: Any, info: PrunedCacheInfo) -> None:
        """Tell the slots what the first layer that runs does not hold, after a prompt that lost columns before it."""
        kept = info.kept_at[self.first_kept]
        for layer in self.layers:
            slot = slot_at(cache, layer, self.first_kept)
            if slot is not None:
                slot.missing = 0 if kept is None else info.length - kept.index.shape[1]

    # context ---------------------------------------------------------------------------------------------------------

    def slot_for(self, cache: Any, index: int, behind: bool) -> tuple[SkippedSlot | None, bool]:
        """The layer's place in the KV cache (None: there is no cache), and whether the context that is in it stays:
        the first prompt's serves the whole conversation.

        Args:
            behind: the prompt comes behind earlier turns.

        Raises:
            AttachError: the earlier turns ran without the policy, so the context is not known.
        """
        slot = slot_at(cache, index, self.first_kept)
        known = slot is not None and slot.known
        if behind and not known and self.layers[index].pools:
            raise _not_known(index)
        return slot, behind and known

    def pool_mask(self, index: int, text: Tensor, real: Tensor) -> Tensor | None:
        """Rows that a layer's context comes from, of those that are text or real (bool [B, S]); None: it has none."""
        layer = self.layers[index]
        if not layer.pools:
            return None
        assert layer.replacement is not None
        return text if layer.replacement.pool == "text" else real

    def context(
        self, index: int, hidden: Tensor, mask: Tensor | None, means: Mapping[Any, Tensor]
    ) -> tuple[Tensor | None, Tensor | None, Mapping[Any, Tensor]]:
        """What a layer's replacement knows of the prompt.

        Args:
            hidden: rows [B, S, D]; mask: bool [B, S], from `pool_mask`.
            means: of the runs of skipped layers so far.

        Returns:
            (the context; the mean that it was made of, if an earlier layer of the run had made it; the means by now).
        """
        layer = self.layers[index]
        if mask is None:
            return None, None, means
        assert layer.replacement is not None
        mask = mask.to(hidden.device)
        if not layer.replacement.once:
            return layer.replacement.context(layer.mean(hidden, mask)), None, means
        key = (self._run(index), *layer.kind)
        shared = means.get(key)
        pooled = layer.mean(hidden, mask) if shared is None else shared.to(hidden.device)
        return layer.replacement.context(pooled), shared, {**means, key: pooled}

    def _run(self, layer: int) -> int:
        """Where the run of skipped layers begins that `layer` belongs to."""
        while layer - 1 in self.layers:
            layer -= 1
        return layer

    # the tail --------------------------------------------------------------------------------------------------------

    def _cut(self, state: PrefillState, call: LayerCall, needed: int) -> tuple[PrefillState, LayerCall]:
        """Rows that are still needed from this layer on: the last ones, and those that a later layer pools."""
        rows, slots = call.hidden.shape[:2]
        device = state.layout.text.device
        last = torch.arange(slots, device=device) >= slots - needed
        pools = {
            later.replacement.pool
            for later in self.layers.values()
            if later.index > call.layer and later.replacement is not None and self._pools_anew(later)
        }
        if "all" in pools or needed >= slots:
            return state, call
        if not pools:
            index = last.nonzero().flatten().expand(rows, -1)
            valid = torch.ones_like(index, dtype=torch.bool)
        elif state.history.tail is None:
            keep = state.layout.text | last
            most = int(keep.sum(1).max())
            if most == slots:
                return state, call
            index, valid = compact(keep, most, pad_right=False)  # what all rows keep, the last ones, stays last
        else:
            return state, call
        return state.cut(call.layer, index, valid), call.with_rows(gather_rows(call.hidden, index))

    def _pools_anew(self, layer: SkippedLayer) -> bool:
        """The layer takes a mean of its own; else it takes none, or one that an earlier layer of its run took."""
        if not layer.pools:
            return False
        assert layer.replacement is not None
        if not layer.replacement.once:
            return True
        earlier = [self.layers[i] for i in range(self._run(layer.index), layer.index)]
        return not any(
            other.replacement is not None and other.replacement.once and other.kind == layer.kind for other in earlier
        )

    # what happened ---------------------------------------------------------------------------------------------------

    def annotate_trace(self, trace: Trace, columns: int) -> Trace:
        """The trace with what was skipped in it; `columns`: length of the whole prompt, padding included."""
        if not self.layers:
            return trace
        extra = [
            [layer.replacement.flops(n) if (layer := self.layers.get(i)) and layer.replacement else 0 for n in counts]
            for i, counts in enumerate(trace.tokens)
        ]
        slots = [0 if i in self.layers else n for i, n in enumerate(trace.cache_slots)]
        return replace(trace, cache_slots=slots, skipped=list(self.layers), replacement_flops=extra, columns=columns)


def _not_known(layer: int) -> AttachError:
    return AttachError(
        f"This KV cache was filled without the attached policy, which skips the attention of layer {layer} and knows "
        "nothing of the prompt. Run the prompt again without past_key_values."
    )
