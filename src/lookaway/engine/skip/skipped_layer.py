"""One decoder layer whose attention does not run: what its modules answer while a policy is attached."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ...anatomy.base import Anatomy
from ...anatomy.blocks import AttentionBlock, attention_block, norm_gain
from ...core.attention_replacement import AttentionReplacement, pooled_prompt
from ...core.errors import AttachError, ModelMismatch, UnsupportedModel
from .outside import InFrontOfDecoder

__all__ = ["CONTEXT", "SkippedLayer"]

CONTEXT = "lookaway_context"
"""Keyword argument of a skipped layer's call: what its replacement knows of the prompt."""


class _Now(threading.local):
    """Of the layer's call that runs now in this thread: set where its attention would run, read by its FFN's norm."""

    context: Tensor | None = None


class SkippedLayer:
    """One skipped layer: what its modules answer while the policy is attached."""

    def __init__(
        self, anatomy: Anatomy, index: int, replacement: AttentionReplacement | None, in_front: InFrontOfDecoder
    ) -> None:
        self.index, self.in_front = index, in_front
        self.block: AttentionBlock = attention_block(anatomy.layers[index], index)
        _check(self.block, replacement, anatomy)
        self.replacement = _placed(replacement, self.block)
        self.gain = None
        if self.replacement is not None and self.replacement.reads == "attention":
            self.gain = norm_gain(self.block.ffn_norm)
        self._norms = {"ffn": self.block.ffn_norm.forward, "attention": self.block.input_norm.forward}
        self._now = _Now()

    @property
    def pools(self) -> bool:
        return self.replacement is not None and self.replacement.pool != "none"

    def mean(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Of the normed states that the replacement reads, over `mask` bool [B, S]: what its `context` takes."""
        assert self.replacement is not None
        states = self._norms[self.replacement.reads](hidden)
        return pooled_prompt(states, mask, self.replacement.without_first)

    @property
    def kind(self) -> tuple[str, str, bool]:
        """Layers of one kind pool alike."""
        assert self.replacement is not None
        return self.replacement.pool, self.replacement.reads, self.replacement.without_first

    def install(self) -> list[Callable[[], object]]:
        undo = [
            self._instead(self.block.attention, self._attention),
            self._instead(self.block.input_norm, lambda hidden, *args, **kwargs: hidden),
        ]
        if self.replacement is None:
            return undo
        if not self.replacement.merged:
            return [*undo, self._instead(self.block.ffn_norm, self._ffn_states)]
        for place, linear in enumerate(self.block.ffn_in):
            hook = linear.register_forward_hook(lambda module, args, out, place=place: self._biased(out, place))
            undo.append(hook.remove)
        return undo

    def _instead(self, module: nn.Module, answer: Callable[..., Any]) -> Callable[[], object]:
        """Let a module of the layer answer the decoder that runs it with `answer`. Returns what undoes it."""
        own = module.forward
        return _answer(module, lambda *args, **kwargs: (own if self.in_front else answer)(*args, **kwargs))

    def _attention(self, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        if self.pools and CONTEXT not in kwargs:
            raise UnsupportedModel(
                f"Decoder layer {self.index} does not hand its keyword arguments to its attention, so what "
                "replaces it cannot know the prompt. Use adapters that do not pool (pool: none), or no adapters."
            )
        self._now.context = kwargs.get(CONTEXT)
        return hidden.new_zeros(1).expand_as(hidden), None

    def _ffn_states(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        assert self.replacement is not None
        changed = self.replacement.changed(self._norms[self.replacement.reads](hidden), self._now.context)
        return changed if self.gain is None else changed * self.gain.to(changed.dtype)

    def _biased(self, out: Tensor, place: int) -> Tensor:
        assert self.replacement is not None
        if self.in_front:
            return out
        return out + self.replacement.biases(self._now.context)[place].to(out.dtype)[:, None]


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


def _check(block: AttentionBlock, replacement: AttentionReplacement | None, anatomy: Anatomy) -> None:
    """Refuse what was made for other widths, or for a model that is (not) merged."""
    if replacement is None:
        return
    size = getattr(replacement, "hidden_size", None)
    if size is not None and size != anatomy.shape.hidden_size:
        raise ModelMismatch(
            f"The adapter of layer {block.layer} reads states of {size} numbers, but this model's have "
            f"{anatomy.shape.hidden_size}: it was trained for another model."
        )
    found = [getattr(linear, "weight", None) for linear in block.ffn_in]
    weights = [weight for weight in found if isinstance(weight, Tensor)]
    if replacement.merged and not (weights and replacement.belongs_to(weights)):
        raise ModelMismatch(
            f"This policy belongs to a model into whose FFNs its adapters were merged, and layer {block.layer} of this "
            "one holds other weights. Load the merged model's folder, or attach the policy from before merging."
        )
    out = getattr(block.out, "weight", None)
    if not replacement.merged and isinstance(out, Tensor) and not bool(out[0].any()):
        raise AttachError(
            f"The adapter of layer {block.layer} is merged into this model already (its attention's last linear holds "
            "zeros). Attach the policy that la.merge(model, policy) returned, or call la.unmerge(model)."
        )


def _placed(replacement: AttentionReplacement | None, block: AttentionBlock) -> AttentionReplacement | None:
    """The replacement where the layer's weights are, in their type; one that is being trained must be there already."""
    if not isinstance(replacement, nn.Module):
        return replacement
    near = next((weight for weight in block.ffn_norm.parameters()), None)
    mine = next(iter([*replacement.parameters(), *replacement.buffers()]))
    if near is None or (mine.device == near.device and (mine.dtype == near.dtype or replacement.training)):
        return replacement
    if replacement.training:
        raise AttachError(
            f"The adapter of layer {block.layer} is being trained on {mine.device}, but the layer is on {near.device}. "
            "Move the adapters first: adapters.to(model.device)."
        )
    return copy.deepcopy(replacement).to(near.device, near.dtype)
