"""Attention blocks that do not run: the policy's skip set carried out on a live model.

A skipped layer keeps its modules in place. While a policy is attached, its attention's `forward` answers zeros, so that
q, k, v and o never run; the norm in front of it does nothing; and the norm in front of its FFN hands on what the
policy's stand-in makes of the states. The prompt's context for a stand-in is made in the layer's pre-hook, travels with
the call's keyword arguments (a layer that gradient checkpointing runs again finds its own) and lives in the KV cache
for decoding.

Behind the last attention that is kept, tokens do not mix: only positions that generation needs run on there (`tail`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..anatomy.base import Anatomy
from ..anatomy.blocks import AttentionBlock, attention_block, norm_gain
from ..core.decision import Policy
from ..core.errors import AttachError, DataError, ModelMismatch, SettingsError, UnsupportedModel
from ..core.record import Trace
from ..core.stand_in import StandIn
from .memory import Memory
from .pruning import Prompt, compact
from .sequence import LayerCall, gather_rows
from .slots import slot_at

__all__ = ["Skipping"]

CONTEXT = "lookaway_context"
"""Keyword argument of a skipped layer's call: what its stand-in knows of the prompt."""


class Skipping:
    """The skipped attentions of one attached policy.

    Args:
        anatomy: the model's.
        policy: its `skips` and `stand_in` are asked, once.
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
        self.layers = {layer: _SkippedLayer(anatomy, layer, policy.stand_in(layer)) for layer in layers}
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

    def enter(self, call: LayerCall, prompt: Prompt, hidden: Tensor, left: Tensor) -> Any:
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

    def settle(self, cache: Any, memory: Memory) -> None:
        """Tell the slots what the first layer that runs does not hold, after a prompt that lost columns before it."""
        kept = memory.kept_at[self.first_kept]
        for layer in self.layers:
            slot = slot_at(cache, layer, self.first_kept)
            if slot is not None:
                slot.missing = 0 if kept is None else memory.length - kept.index.shape[1]

    def again(self, call: LayerCall, prompt: Prompt, hidden: Tensor) -> Any:
        """The call of a layer that gradient checkpointing runs again, hooks and all (transformers before 5.17)."""
        layer = self.layers[call.layer]
        context = None
        if layer.pools:
            assert layer.stand_in is not None
            mask, shared = prompt.pools[call.layer]
            pooled = layer.mean(hidden, mask) if shared is None else shared
            context = layer.stand_in.context(pooled)
        if call.layer in prompt.cut_at:
            hidden = gather_rows(hidden, prompt.cut_at[call.layer])
        return call.replaced(hidden, **{CONTEXT: context})

    # context ---------------------------------------------------------------------------------------------------------

    def _context(self, layer: _SkippedLayer, prompt: Prompt, left: Tensor) -> Tensor | None:
        if not layer.pools:
            return None
        assert layer.stand_in is not None
        key = (self._run(layer.index), layer.stand_in.pool, layer.stand_in.reads) if layer.stand_in.once else None
        shared = prompt.shared_pools.get(key) if key is not None else None
        mask = self._pool_mask(layer.stand_in, prompt)
        prompt.pools[layer.index] = (mask, shared)
        pooled = layer.mean(left, mask) if shared is None else shared
        if key is not None:
            prompt.shared_pools[key] = pooled
        return layer.stand_in.context(pooled)

    def _run(self, layer: int) -> int:
        """Where the run of skipped layers begins that `layer` belongs to."""
        while layer - 1 in self.layers:
            layer -= 1
        return layer

    def _pool_mask(self, stand_in: StandIn, prompt: Prompt) -> Tensor:
        mask = prompt.layout.text if stand_in.pool == "text" else ~prompt.layout.padding
        if self.answers is None:
            return mask
        answers = self.answers.to(mask.device)
        if answers.shape != prompt.initial.text.shape:
            raise DataError(
                f"The mask of answers has shape {tuple(answers.shape)}, the tokens {tuple(prompt.initial.text.shape)}."
            )
        return mask & ~(answers if prompt.kept is None else answers.gather(1, prompt.kept.index))

    # the tail --------------------------------------------------------------------------------------------------------

    def _cut(self, layer: int, prompt: Prompt, hidden: Tensor) -> Tensor:
        """Rows that are still needed from this layer on: the last ones, and those that a later layer pools."""
        assert self.needed is not None
        rows, slots = hidden.shape[:2]
        last = torch.arange(slots, device=hidden.device) >= slots - self.needed
        pools = {
            later.stand_in.pool
            for later in self.layers.values()
            if later.index > layer and later.stand_in is not None and self._pools_anew(later)
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

    def _pools_anew(self, layer: _SkippedLayer) -> bool:
        """The layer takes a mean of its own; else it takes none, or one that an earlier layer of its run took."""
        if not layer.pools:
            return False
        assert layer.stand_in is not None
        if not layer.stand_in.once:
            return True
        kind = (layer.stand_in.pool, layer.stand_in.reads)
        earlier = [self.layers[i].stand_in for i in range(self._run(layer.index), layer.index)]
        return not any(other is not None and other.once and (other.pool, other.reads) == kind for other in earlier)

    # what happened ---------------------------------------------------------------------------------------------------

    def told(self, trace: Trace, columns: int) -> Trace:
        """The trace with what was skipped in it; `columns`: length of the whole prompt, padding included."""
        if not self.layers:
            return trace
        extra = [
            [layer.stand_in.flops(n) if (layer := self.layers.get(i)) and layer.stand_in else 0 for n in counts]
            for i, counts in enumerate(trace.tokens)
        ]
        slots = [0 if i in self.layers else n for i, n in enumerate(trace.cache_slots)]
        return replace(trace, cache_slots=slots, skipped=list(self.layers), stand_in_flops=extra, columns=columns)


class _SkippedLayer:
    """One skipped layer: what its modules answer while the policy is attached."""

    def __init__(self, anatomy: Anatomy, index: int, stand_in: StandIn | None) -> None:
        self.index = index
        self.block: AttentionBlock = attention_block(anatomy.layers[index], index)
        _check(self.block, stand_in, anatomy)
        self.stand_in = _placed(stand_in, self.block)
        self.gain = None
        if self.stand_in is not None and self.stand_in.reads == "attention":
            self.gain = norm_gain(self.block.ffn_norm)
        self._norms = {"ffn": self.block.ffn_norm.forward, "attention": self.block.input_norm.forward}
        self._context: Tensor | None = None
        """Of the layer's forward that runs now: set when its attention would run, read a moment later."""

    @property
    def pools(self) -> bool:
        return self.stand_in is not None and self.stand_in.pool != "none"

    def mean(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Mean [B, D], in fp32 at least, of the normed states that the stand-in reads, over `mask` bool [B, S]."""
        assert self.stand_in is not None
        states = self._norms[self.stand_in.reads](hidden)
        states = states.to(torch.promote_types(states.dtype, torch.float32))
        total = states.masked_fill(~mask[:, :, None], 0.0).sum(1)  # padding may hold anything
        return total / mask.sum(1, keepdim=True).clamp(min=1)

    def install(self) -> list[Callable[[], object]]:
        undo = [
            _answer(self.block.attention, self._attention),
            _answer(self.block.input_norm, lambda hidden, *args, **kwargs: hidden),
        ]
        if self.stand_in is None:
            return undo
        if not self.stand_in.merged:
            return [*undo, _answer(self.block.ffn_norm, self._ffn_states)]
        for place, linear in enumerate(self.block.ffn_in):
            hook = linear.register_forward_hook(lambda module, args, out, place=place: self._biased(out, place))
            undo.append(hook.remove)
        return undo

    def _attention(self, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        if self.pools and CONTEXT not in kwargs:
            raise UnsupportedModel(
                f"Decoder layer {self.index} does not hand its keyword arguments to its attention, so what stands in "
                "for it cannot know the prompt. Use adapters that do not pool (pool: none), or no adapters."
            )
        self._context = kwargs.get(CONTEXT)
        return hidden.new_zeros(1).expand_as(hidden), None

    def _ffn_states(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        assert self.stand_in is not None
        changed = self.stand_in.changed(self._norms[self.stand_in.reads](hidden), self._context)
        return changed if self.gain is None else changed * self.gain.to(changed.dtype)

    def _biased(self, out: Tensor, place: int) -> Tensor:
        assert self.stand_in is not None
        return out + self.stand_in.biases(self._context)[place].to(out.dtype)[:, None]


def _answer(module: nn.Module, forward: Callable[..., Any]) -> Callable[[], object]:
    """Let a module answer with `forward`; its place, weights and hooks stay. Returns what puts its own back."""
    own = vars(module).get("forward")
    module.forward = forward

    def put_back() -> None:
        if own is None:
            vars(module).pop("forward", None)
        else:
            module.forward = own

    return put_back


def _check(block: AttentionBlock, stand_in: StandIn | None, anatomy: Anatomy) -> None:
    """Refuse what was made for other widths, or for a model that is (not) merged."""
    if stand_in is None:
        return
    size = getattr(stand_in, "hidden_size", None)
    if size is not None and size != anatomy.shape.hidden_size:
        raise ModelMismatch(
            f"The adapter of layer {block.layer} reads states of {size} numbers, but this model's have "
            f"{anatomy.shape.hidden_size}: it was trained for another model."
        )
    found = [getattr(linear, "weight", None) for linear in block.ffn_in]
    weights = [weight for weight in found if isinstance(weight, Tensor)]
    if stand_in.merged and not (weights and stand_in.belongs_to(weights)):
        raise ModelMismatch(
            f"This policy belongs to a model into whose FFNs its adapters were merged, and layer {block.layer} of this "
            "one holds other weights. Load the merged model's folder, or attach the policy from before merging."
        )
    out = getattr(block.out, "weight", None)
    if not stand_in.merged and isinstance(out, Tensor) and not bool(out[0].any()):
        raise AttachError(
            f"The adapter of layer {block.layer} is merged into this model already (its attention's last linear holds "
            "zeros). Attach the policy that policy.merge(model) returned, or call la.unmerge(model)."
        )


def _placed(stand_in: StandIn | None, block: AttentionBlock) -> StandIn | None:
    """The stand-in where the layer's weights are, in their type; one that is being trained must be there already."""
    if not isinstance(stand_in, nn.Module):
        return stand_in
    near = next((weight for weight in block.ffn_norm.parameters()), None)
    mine = next(iter([*stand_in.parameters(), *stand_in.buffers()]))
    if near is None or (mine.device == near.device and (mine.dtype == near.dtype or stand_in.training)):
        return stand_in
    if stand_in.training:
        raise AttachError(
            f"The adapter of layer {block.layer} is being trained on {mine.device}, but the layer is on {near.device}. "
            "Move the adapters first: adapters.to(model.device)."
        )
    return copy.deepcopy(stand_in).to(near.device, near.dtype)


def _not_known(layer: int) -> AttachError:
    return AttachError(
        f"This KV cache was filled without the attached policy, which skips the attention of layer {layer} and knows "
        "nothing of the prompt. Run the prompt again without past_key_values."
    )
