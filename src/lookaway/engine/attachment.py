"""A policy on a live model: forward pre-hooks that carry its decisions out, and come off again.

One hook on the module that gets `input_ids` finds the layout of a new prompt; hooks on the decoder layers, from the
policy's first layer on, ask the policy and narrow what the layer gets. Nothing global is touched.
"""

from __future__ import annotations

import inspect
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from ..anatomy.base import Anatomy
from ..anatomy.find import anatomy_of
from ..core.decision import Policy
from ..core.errors import AttachError, UnsupportedModel
from ..core.layout import TokenLayout
from ..core.record import Trace
from .cache.pruned_cache import PrunedCacheInfo, recall, remember
from .cache.static import padding_mask
from .observe.qk_capture import QKCapture
from .prefill.decoder_call import LayerCall, gather_rows
from .prefill.loss import loss_on_kept_columns
from .prefill.row_groups import CannotSplit, Parts
from .prefill.state import PrefillState
from .refusals import check_not_compiled, check_run
from .skip.skipping import Skipping

__all__ = ["Attachment", "check_detached", "policy_layers"]

_attached: WeakValueDictionary[int, Attachment] = WeakValueDictionary()
"""What is attached, by the id of the backbone; the hooks keep an attachment alive as long as its model lives."""


def check_detached(anatomy: Anatomy) -> None:
    """Raise AttachError where a policy is attached to this model."""
    other = _attached.get(id(anatomy.backbone))
    if other is not None:
        raise AttachError(
            f"{other.policy!r} is attached to this model already. Detach it first, or join the two: "
            "la.attach(model, la.chain(first, second))."
        )


class Attachment:
    """A policy attached to a model, until `detach()` or the end of its `with` block."""

    shortens: ClassVar[bool] = True
    """Outputs are of the kept columns alone."""

    def __init__(self, model: Any, policy: Policy) -> None:
        self.anatomy: Anatomy = anatomy_of(model)
        self.policy = policy
        self._layers = policy_layers(policy, self.anatomy)
        check_detached(self.anatomy)
        check_not_compiled(model, self.anatomy)
        if policy.base is not None:
            policy.base.check(self.anatomy.base)
        self._skipping = Skipping(self.anatomy, policy, cuts=self.shortens)
        self._prompt: PrefillState | None = None
        """The prompt that is in its prefill now."""
        self._memory: PrunedCacheInfo | None = None
        """What the cache of the forward running now holds, where earlier prompts were shortened."""
        self._running = False
        self._latest: PrefillState | None = None
        self._unfinished: deque[PrefillState] = deque(maxlen=8)
        """Prompts whose layers gradient checkpointing may run again in a backward that is still to come."""
        self._memo: dict[Any, Any] = {}
        self._parts: dict[int, Parts] = {}
        """Layers that run in groups just now."""
        self.split = True
        """Rows that keep different numbers of tokens run in groups of like length in prefill."""
        self._attention = ""
        self._parameters = tuple(inspect.signature(type(self.anatomy.backbone).forward).parameters)[1:]
        looks = policy.needs_attention(self.anatomy.num_layers) & self._layers
        self._watch = QKCapture(
            self.anatomy, looks, lambda: self._prompt is not None and self._prompt.has_visual_tokens
        )
        self._undo: list[Callable[[], object]] = [self._watch.remove, *(hook.remove for hook in self._register())]
        self._undo += self._skipping.install(self.anatomy.model)
        self._undo.append(loss_on_kept_columns(self.anatomy.model, self._left_columns, self.shortens))
        _attached[id(self.anatomy.backbone)] = self
        self._undo.append(lambda: _attached.pop(id(self.anatomy.backbone), None))

    # the handle ------------------------------------------------------------------------------------------------------

    def detach(self) -> None:
        """Take everything off again; a second call does nothing."""
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *exc: object) -> None:
        self.detach()

    @property
    def trace(self) -> Trace:
        """What happened to the latest prompt.

        Raises:
            AttachError: no prompt ran since the policy was attached.
        """
        prompt = self._last_prompt()
        return self._skipping.annotate_trace(prompt.trace(self.anatomy.shape), prompt.length)

    def answers_at(self, mask: Tensor | None) -> None:
        """Which columns of the coming prompts are teacher-forced answers, bool [B, S]: what stands in for skipped
        attention takes nothing from them. None: none are."""
        self._skipping.answers = mask

    def kept_columns(self) -> tuple[Tensor, Tensor]:
        """Columns of the latest prompt that its outputs (logits, hidden states) stand for.

        Returns:
            `(index int64 [B, K], valid bool [B, K])`: output slot j of row b is column `index[b, j]` of the prompt;
            slots that are not valid pad. `model(labels=...)` takes its labels by it.
        """
        return self._last_prompt().columns()

    def _has_visual_tokens(self) -> bool:
        return self._prompt is not None and self._prompt.has_visual_tokens

    def _left_columns(self) -> tuple[Tensor, Tensor] | None:
        return self._latest.columns() if self._latest is not None and self._latest.kept is not None else None

    def _last_prompt(self) -> PrefillState:
        if self._latest is None:
            raise AttachError("No prompt ran while the policy was attached: call model(...) or model.generate(...).")
        return self._latest

    # the hooks -------------------------------------------------------------------------------------------------------

    def _register(self) -> list[Any]:
        hooks: list[Any] = [
            self.anatomy.backbone.register_forward_pre_hook(self._before_model, with_kwargs=True),
            self.anatomy.backbone.register_forward_hook(self._after_model, always_call=True),
        ]
        first = min(self._layers, default=self.anatomy.num_layers)
        for layer in range(self.anatomy.num_layers):
            if layer < first and layer not in self._skipping:
                continue
            hook = _LayerHook(self, layer)
            module = self.anatomy.layers[layer]
            hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            hooks.append(module.register_forward_hook(hook.after, prepend=True))  # others see the whole batch
        return hooks

    def _before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        self._prompt = self._memory = None
        self._memo, self._parts = {}, {}
        self._watch.clear()
        self._attention = self.anatomy.attention
        self._running = True
        cache = inputs.get("past_key_values")
        if self._layers:
            check_run(self._attention, cache, self.anatomy.has_windows)
        if cache is None or cache.get_seq_length() == 0:
            self._begin(inputs, None)
        else:
            self._continue(cache, inputs)

    def _begin(self, inputs: dict[str, Any], past: PrunedCacheInfo | None) -> None:
        """A new prompt, at the start or behind earlier turns."""
        self._prompt = PrefillState(self._layout(inputs), self.anatomy.num_layers, past)
        if self._layers and not self._prompt.has_visual_tokens:
            warnings.warn(
                "A policy is attached, but no row of this batch has a visual token: nothing can leave.", stacklevel=2
            )

    def _layout(self, inputs: dict[str, Any]) -> TokenLayout:
        mask, ids = inputs.get("attention_mask"), inputs.get("input_ids")
        tokens: Tensor = inputs["inputs_embeds"] if ids is None else ids
        mask = padding_mask(mask, inputs.get("past_key_values"), tokens.shape[1])
        if isinstance(mask, Tensor) and mask.dim() == 2 and self._memory is not None:  # it covers the cache too
            mask = mask[:, -tokens.shape[1] :]
        return self.anatomy.layout_of_embeddings(tokens, mask) if ids is None else self.anatomy.layout(ids, mask)

    def _continue(self, cache: Any, inputs: dict[str, Any]) -> None:
        """New tokens behind a cache: decoding, or a later turn, with or without images of its own."""
        memory, length = recall(cache), cache.get_seq_length()
        if memory is not None and (not self._layers or memory.first_layer < min(self._layers)):
            raise AttachError(
                f"This KV cache was shortened from layer {memory.first_layer} on, which the attached policy does "
                f"not reach ({self.policy!r}). Continue it with the policy that it was made with."
            )
        if memory is not None and memory.pad_right and self.anatomy.has_windows:
            raise UnsupportedModel(
                "This decoder has sliding-window layers, and the prompts were padded on the right: padding between "
                "prompt and answer would push tokens out of the window. Set tokenizer.padding_side = 'left'."
            )
        self._memory = (memory or PrunedCacheInfo([None] * self.anatomy.num_layers, length)).up_to(length)
        if self._layers and any(inputs.get(name) is not None for name in _IMAGES):
            self._begin(inputs, self._memory)

    def _after_model(self, module: nn.Module, args: Any, output: Any) -> None:
        prompt = self._prompt
        if output is not None and prompt is not None:
            self._latest = prompt
            if torch.is_grad_enabled() and getattr(self.anatomy.model, "is_gradient_checkpointing", False):
                self._unfinished.append(prompt)
            if prompt.cache is not None:
                memory = prompt.memory()
                remember(prompt.cache, memory)
                if self.shortens:  # the slow twin's layers hold all columns
                    self._skipping.sync_cache_lengths(prompt.cache, memory)
                prompt.cache = None
        self._prompt = self._memory = None
        self._memo, self._parts = {}, {}
        self._watch.clear()
        self._running = False

    def _before_layer(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        prompt = self._prompt
        call = LayerCall(layer, args, kwargs, self._attention, self._memo)
        if prompt is None:
            if not self._running:
                return self._recompute(call)
            if layer in self._skipping:
                return self._skipping.behind(call)
            if self._memory is None or self._memory.kept_at[layer] is None:
                return None
            return self._behind(call, self._memory, call.hidden.shape[1])
        prompt.marks[layer] = call.mark
        if prompt.has_visual_tokens and layer in self._layers:
            stay = prompt.ask(self.policy, layer, self._left(call, prompt), self._watch.take(layer, prompt))
        else:
            stay = None
        if layer in self._skipping:
            return self._skip(call, prompt, stay)
        if prompt.kept is not None:
            prompt.kept_at[layer] = prompt.kept
            prompt.cache = call.cache
            return self._carry_out(call, prompt, stay)
        if prompt.past.kept_at[layer] is not None:
            prompt.cache = call.cache
            return self._behind(call, prompt.past, prompt.length)
        return None

    def _recompute(self, call: LayerCall) -> Any:
        """A layer outside of a forward: gradient checkpointing (some versions run hooks again), or a mistake."""
        mark = call.mark
        prompt = next((p for p in self._unfinished if mark is not None and mark is p.marks.get(call.layer)), None)
        if prompt is None:
            raise AttachError(
                "A decoder layer ran outside of the model's forward while a policy is attached, so lookaway cannot see "
                "where the image is. Call the whole model (with gradient checkpointing: at most "
                f"{self._unfinished.maxlen} forwards before their backward), or detach first."
            )
        stay = prompt.kept_slots.get(call.layer)
        if call.layer in self._skipping:
            return self._skipping.again(
                call, prompt, call.hidden if stay is None else gather_rows(call.hidden, stay[0])
            )
        kept = prompt.kept_at[call.layer]
        return None if kept is None else self._carry_out(call, prompt, stay)

    # carrying decisions out ------------------------------------------------------------------------------------------

    def _left(self, call: LayerCall, prompt: PrefillState) -> Tensor:
        """States of what is left, [B, S, D], for the policy."""
        return call.hidden

    def _carry_out(self, call: LayerCall, prompt: PrefillState, stay: tuple[Tensor, Tensor] | None) -> Any:
        """The call on the columns that `prompt.kept_at` says; `stay`: slots that stay, where some leave just now."""
        kept, hidden, past = prompt.kept_at[call.layer], call.hidden, prompt.past
        assert kept is not None
        if stay is not None:
            hidden = gather_rows(hidden, stay[0])
        if self._may_split(call.layer, prompt):
            try:
                return self._in_groups(call, hidden, prompt)
            except CannotSplit:
                self.split = False  # this decoder runs as one rectangle
        return call.narrowed(hidden, kept, past.kept_at[call.layer], past.length, prompt.length)

    def _skip(self, call: LayerCall, prompt: PrefillState, stay: tuple[Tensor, Tensor] | None) -> Any:
        """The call of a layer whose attention is skipped: rows that leave do so all the same."""
        hidden = call.hidden if stay is None else gather_rows(call.hidden, stay[0])
        return self._skipping.enter(call, prompt, hidden, hidden)

    def _may_split(self, layer: int, prompt: PrefillState) -> bool:
        watched = layer + 1 in self._watch.layers and prompt.has_visual_tokens  # it is read as one rectangle
        inference = not torch.is_grad_enabled()
        return self.split and len(prompt.groups) > 1 and not prompt.past.length and not watched and inference

    def _in_groups(self, call: LayerCall, hidden: Tensor, prompt: PrefillState) -> Any:
        """Run all groups but the last here; the layer's own call is the last, and `_after_layer` joins them."""
        module = self.anatomy.layers[call.layer]
        parts = Parts(prompt.groups, (hidden.shape[0], hidden.shape[1]), call.cache)
        for group in prompt.groups:
            args, kwargs = call.narrowed(group.of(hidden), group.kept, None, 0, prompt.length)
            if call.cache is not None:
                kwargs["past_key_values"] = parts.cache_of_group()
            if group is prompt.groups[-1]:
                self._parts[call.layer] = parts
                return args, kwargs
            parts.add(module.forward(*args, **kwargs))
        raise AssertionError

    def _after_layer(self, layer: int, output: Any) -> Any:
        parts = self._parts.pop(layer, None)
        if parts is None:
            return None
        parts.add(output)
        return parts.together()

    def _behind(self, call: LayerCall, past: PrunedCacheInfo, length: int) -> Any:
        """The call of `length` new tokens, none of which leaves, behind a shortened cache."""
        return call.narrowed(None, None, past.kept_at[call.layer], past.length, length)


class _LayerHook:
    """The hooks of one decoder layer."""

    def __init__(self, owner: Attachment, layer: int) -> None:
        self.owner, self.layer = owner, layer

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.owner._before_layer(self.layer, args, kwargs)

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return self.owner._after_layer(self.layer, output)


_IMAGES = ("pixel_values", "pixel_values_images", "pixel_values_videos", "mm_encoder_outputs")


def policy_layers(policy: Policy, anatomy: Anatomy) -> frozenset[int]:
    """The layers before which `policy` is asked on this model; AttachError where that is not possible."""
    if not isinstance(policy, Policy):
        raise AttachError(f"{policy!r} is no policy. la.policies() lists them, la.load(path) reads a saved one.")
    first, last = anatomy.first_prunable_layer, anatomy.num_layers
    layers = frozenset(policy.layers(last, first))
    wrong = sorted(layer for layer in layers if not first <= layer < last)
    if wrong:
        raise AttachError(
            f"{policy!r} wants to remove before layers {wrong}; this model allows {first} to {last - 1} "
            f"({type(anatomy.language_model).__name__}, {last} layers)."
        )
    return layers
