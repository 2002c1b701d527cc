"""Attention blocks that do not run: the policy's skip set carried out on a live model.

A skipped layer keeps its modules in place. While a policy is attached, its attention's `forward` answers zeros, so that
q, k, v and o never run; the norm in front of it does nothing; and the norm in front of its FFN hands on what the
policy's stand-in makes of the states. The prompt's context for a stand-in is made in the layer's pre-hook, travels with
the call's keyword arguments (a layer that gradient checkpointing runs again finds its own) and lives in the KV cache
for decoding.

Behind the last attention that is kept, tokens do not mix: only positions that generation needs run on there (`tail`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...anatomy.base import Anatomy
from ...core.attention_replacement import AttentionReplacement
from ...core.decision import Policy
from ...core.errors import AttachError, DataError, SettingsError
from ...core.record import Trace
from ..cache.pruned_cache import PrunedCacheInfo
from ..cache.skipped_slot import slot_at
from ..prefill.decoder_call import LayerCall, gather_rows
from ..prefill.state import PrefillState, compact
from .skipped_layer import CONTEXT, SkippedLayer

__all__ = ["Skipping"]


class Skipping:
    """The skipped attentions of one attached policy.

    Args:
        anatomy: the model's.
        policy: its `skips` and `replacement` are asked, once.
        cuts: let only what generation needs run on behind the last attention (the slow twin does not).

    Raises:
        AttachError, ModelMismatch, SettingsError, UnsupportedModel: the set or what stands in does not fit the model.
    """

    def __init__(self, anatomy: Anatomy, policy: Policy, cuts: bool = True) -> None:
        depth = anatomy.num_layers
        layers = tuple(policy.skips(depth))
        if list(layers) != sorted(set(layers)) or (layers and not 0 <= layers[0] <= layers[-1] < depth):
            raise AttachError(f"{policy!r} skips layers {list(layers)}; this decoder has layers 0 to {depth - 1}.")
        if len(layers) == depth:
            raise SettingsError(f"{policy!r} skips every attention of the decoder. Keep at least one.")
        self.cuts, self.depth = cuts, depth
        self.layers = {layer: SkippedLayer(anatomy, layer, policy.replacement(layer)) for layer in layers}
        self.first_kept = next((layer for layer in range(depth) if layer not in layers), 0)
        last_kept = max(layer for layer in range(depth) if layer not in layers)
        self.tail = max(last_kept + 1, anatomy.first_prunable_layer)
        """First layer behind the last attention."""
        self.needed: int | None = None
        """Positions at the end that the model's head asks for in the forward that runs now; None: all."""
        self.answers: Tensor | None = None
        """Columns of coming prompts that are teacher-forced answers, bool [B, S]: no context comes from them."""

    def __contains__(self, layer: int) -> bool:
        return layer in self.layers

    def install(self, model: nn.Module) -> list[Callable[[], object]]:
        """Let the skipped layers' modules answer as said above.

        Returns:
            What undoes it, to be called in reverse order.
        """
        if not self.layers:
            return []
        undo: list[Callable[[], object]] = [
            model.register_forward_pre_hook(self._before_head, with_kwargs=True).remove,
            model.register_forward_hook(self._after_head, always_call=True).remove,
        ]
        for layer in self.layers.values():
            undo += layer.install()
        return undo

    def _before_head(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        asked = kwargs.get("logits_to_keep")
        self.needed = asked if isinstance(asked, int) and asked > 0 else None

    def _after_head(self, module: nn.Module, args: Any, output: Any) -> None:
        self.needed = None

    # a skipped layer's call -------------------------------------------------------------------------------------------

    def enter(self, call: LayerCall, prompt: PrefillState, hidden: Tensor, left: Tensor) -> Any:
        """The call in prefill.

        Args:
            hidden: rows that the layer runs on.
            left: rows of what is left of the prompt, [B, S, D], as `prompt.layout` says.
        """
        layer = self.layers[call.layer]
        slot = slot_at(call.cache, call.layer, self.first_kept)
        behind = prompt.past.length > 0
        if slot is not None and slot.known and behind:
            context = slot.context  # the first prompt's, for the whole conversation
        elif behind and layer.pools:
            raise _not_known(call.layer)
        else:
            context = self._context(layer, prompt, left)
        if slot is not None:
            slot.context, slot.known = context, True
        if self.cuts and self.needed is not None and call.layer >= self.tail:
            hidden = self._cut(call.layer, prompt, hidden)
        return call.replaced(hidden, **{CONTEXT: context})

    def behind(self, call: LayerCall) -> Any:
        """The call of new tokens behind a cache that the prompt filled."""
        slot = slot_at(call.cache, call.layer, self.first_kept)
        if slot is None or not slot.known:
            raise _not_known(call.layer)
        hidden = call.hidden
        if self.cuts and self.needed is not None and call.layer >= self.tail:
            hidden = hidden[:, -self.needed :]
        return call.replaced(hidden, **{CONTEXT: slot.context})

    def sync_cache_lengths(self, cache: Any, memory: PrunedCacheInfo) -> None:
        """Tell the slots what the first layer that runs does not hold, after a prompt that lost columns before it."""
        kept = memory.kept_at[self.first_kept]
        for layer in self.layers:
            slot = slot_at(cache, layer, self.first_kept)
            if slot is not None:
                slot.missing = 0 if kept is None else memory.length - kept.index.shape[1]

    def again(self, call: LayerCall, prompt: PrefillState, hidden: Tensor) -> Any:
        """The call of a layer that gradient checkpointing runs again, hooks and all (transformers before 5.23)."""
        layer = self.layers[call.layer]
        context = None
        if layer.pools:
            assert layer.replacement is not None
            mask, shared = prompt.pools[call.layer]
            pooled = layer.mean(hidden, mask) if shared is None else shared
            context = layer.replacement.context(pooled)
        if call.layer in prompt.cut_at:
            hidden = gather_rows(hidden, prompt.cut_at[call.layer])
        return call.replaced(hidden, **{CONTEXT: context})

    # context ---------------------------------------------------------------------------------------------------------

    def _context(self, layer: SkippedLayer, prompt: PrefillState, left: Tensor) -> Tensor | None:
        if not layer.pools:
            return None
        assert layer.replacement is not None
        key = (
            (self._run(layer.index), layer.replacement.pool, layer.replacement.reads)
            if layer.replacement.once
            else None
        )
        shared = prompt.shared_pools.get(key) if key is not None else None
        mask = self._pool_mask(layer.replacement, prompt)
        prompt.pools[layer.index] = (mask, shared)
        pooled = layer.mean(left, mask) if shared is None else shared
        if key is not None:
            prompt.shared_pools[key] = pooled
        return layer.replacement.context(pooled)

    def _run(self, layer: int) -> int:
        """Where the run of skipped layers begins that `layer` belongs to."""
        while layer - 1 in self.layers:
            layer -= 1
        return layer

    def _pool_mask(self, replacement: AttentionReplacement, prompt: PrefillState) -> Tensor:
        mask = prompt.layout.text if replacement.pool == "text" else ~prompt.layout.padding
        if self.answers is None:
            return mask
        answers = self.answers.to(mask.device)
        if answers.shape != prompt.initial.text.shape:
            raise DataError(
                f"The mask of answers has shape {tuple(answers.shape)}, the tokens {tuple(prompt.initial.text.shape)}."
            )
        return mask & ~(answers if prompt.kept is None else answers.gather(1, prompt.kept.index))

    # the tail --------------------------------------------------------------------------------------------------------

    def _cut(self, layer: int, prompt: PrefillState, hidden: Tensor) -> Tensor:
        """Rows that are still needed from this layer on: the last ones, and those that a later layer pools."""
        assert self.needed is not None
        rows, slots = hidden.shape[:2]
        last = torch.arange(slots, device=hidden.device) >= slots - self.needed
        pools = {
            later.replacement.pool
            for later in self.layers.values()
            if later.index > layer and later.replacement is not None and self._pools_anew(later)
        }
        if "all" in pools or self.needed >= slots:
            return hidden
        if not pools:
            index = last.nonzero().flatten().expand(rows, -1)
            valid = torch.ones_like(index, dtype=torch.bool)
        elif prompt.tail is None:
            keep = prompt.layout.text | last
            most = int(keep.sum(1).max())
            if most == slots:
                return hidden
            index, valid = compact(keep, most, pad_right=False)  # what all rows keep, the last ones, stays last
        else:
            return hidden
        prompt.cut(layer, index, valid)
        return gather_rows(hidden, index)

    def _pools_anew(self, layer: SkippedLayer) -> bool:
        """The layer takes a mean of its own; else it takes none, or one that an earlier layer of its run took."""
        if not layer.pools:
            return False
        assert layer.replacement is not None
        if not layer.replacement.once:
            return True
        kind = (layer.replacement.pool, layer.replacement.reads)
        earlier = [self.layers[i].replacement for i in range(self._run(layer.index), layer.index)]
        return not any(other is not None and other.once and (other.pool, other.reads) == kind for other in earlier)

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
