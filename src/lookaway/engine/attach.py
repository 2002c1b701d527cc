"""A policy on a live model: forward pre-hooks that carry its decisions out, and come off again.

One hook on the module that gets `input_ids` finds the layout of a new prompt; hooks on the decoder layers, from the
policy's first layer on, ask the policy and narrow what the layer gets. Nothing global is touched.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any
from weakref import WeakValueDictionary

from torch import Tensor, nn

from ..anatomy.base import Anatomy, anatomy_of
from ..core.decision import Policy
from ..core.errors import AttachError, UnsupportedModel
from ..core.layout import TokenLayout
from ..core.record import Trace
from .memory import Memory, recall, remember
from .proof import prove
from .pruning import Prompt
from .sequence import LayerCall, gather_rows

__all__ = ["Attachment", "attach", "check_detached"]

_attached: WeakValueDictionary[int, Attachment] = WeakValueDictionary()
"""What is attached, by the id of the backbone; the hooks keep an attachment alive as long as its model lives."""


def attach(model: Any, policy: Policy) -> Attachment:
    """Attach a policy to a model; a context manager, and a handle with `detach()`.

    Args:
        model: any supported Hugging Face VLM, unmodified (`la.anatomy(model)` shows what is found in it).
        policy: what decides.

    Raises:
        AttachError: a policy is attached to this model already, or it wants layers that cannot be pruned.
        ModelMismatch: the policy was made for another model.
        UnknownAnatomy, UnsupportedModel: see `la.anatomy`.
    """
    prove(model)
    return Attachment(model, policy)


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

    def __init__(self, model: Any, policy: Policy) -> None:
        self.anatomy: Anatomy = anatomy_of(model)
        self.policy = policy
        self._layers = _policy_layers(policy, self.anatomy)
        check_detached(self.anatomy)
        if policy.base is not None:
            policy.base.check(self.anatomy.base)
        self._prompt: Prompt | None = None
        """The prompt that is in its prefill now."""
        self._memory: Memory | None = None
        """The removal that the cache of the forward running now remembers."""
        self._running = False
        self._latest: Prompt | None = None
        self._memo: dict[Any, Any] = {}
        self._attention = ""
        self._parameters = tuple(inspect.signature(type(self.anatomy.backbone).forward).parameters)[1:]
        self._hooks = self._register()
        _attached[id(self.anatomy.backbone)] = self

    # the handle ------------------------------------------------------------------------------------------------------

    def detach(self) -> None:
        """Take everything off again; a second call does nothing."""
        for hook in self._hooks:
            hook.remove()
        if self._hooks:
            _attached.pop(id(self.anatomy.backbone), None)
        self._hooks = []

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
        return self._last_prompt().trace(self.anatomy.shape)

    def kept_columns(self) -> tuple[Tensor, Tensor]:
        """Columns of the latest prompt that its outputs (logits, hidden states) stand for.

        Returns:
            `(index int64 [B, K], valid bool [B, K])`: output slot j of row b is column `index[b, j]` of the prompt;
            slots that are not valid pad. Trainers gather their labels with it.
        """
        return self._last_prompt().columns()

    def _last_prompt(self) -> Prompt:
        if self._latest is None:
            raise AttachError("No prompt ran while the policy was attached: call model(...) or model.generate(...).")
        return self._latest

    # the hooks -------------------------------------------------------------------------------------------------------

    def _register(self) -> list[Any]:
        hooks: list[Any] = [
            self.anatomy.backbone.register_forward_pre_hook(self._before_model, with_kwargs=True),
            self.anatomy.backbone.register_forward_hook(self._after_model, always_call=True),
        ]
        for layer in range(min(self._layers), self.anatomy.num_layers) if self._layers else ():
            hook = _LayerHook(self, layer)
            hooks.append(self.anatomy.layers[layer].register_forward_pre_hook(hook, with_kwargs=True))
        return hooks

    def _before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        self._prompt = self._memory = None
        self._memo = {}
        self._attention = self.anatomy.attention
        self._running = True
        cache = inputs.get("past_key_values")
        if self._layers and self.anatomy.has_windows and "flash" in self._attention:
            raise UnsupportedModel(
                f"{self._attention!r} counts the tokens that are left where this decoder's sliding windows count "
                "places in the whole prompt. Load the model with attn_implementation='sdpa' or 'eager'."
            )
        if self._layers and getattr(cache, "is_compileable", False):
            raise UnsupportedModel(
                f"{type(cache).__name__} has a fixed size in every layer, so tokens cannot leave it. Use the default "
                "dynamic cache: generate(..., cache_implementation=None)."
            )
        if cache is not None and cache.get_seq_length() > 0:
            self._continue(cache, inputs)
        else:
            layout = self._layout(inputs)
            self._prompt = Prompt(layout, self.anatomy.num_layers)
            if self._layers and not self._prompt.waiting:
                warnings.warn(
                    "A policy is attached, but no row of this batch has a visual token: nothing can leave.",
                    stacklevel=2,
                )

    def _layout(self, inputs: dict[str, Any]) -> TokenLayout:
        if inputs.get("input_ids") is not None:
            return self.anatomy.layout(inputs["input_ids"], inputs.get("attention_mask"))
        return self.anatomy.layout_of_embeddings(inputs["inputs_embeds"], inputs.get("attention_mask"))

    def _continue(self, cache: Any, inputs: dict[str, Any]) -> None:
        """New tokens behind a cache: decoding, or a later turn."""
        self._memory = recall(cache)
        ids = inputs.get("input_ids")
        images = any(inputs.get(name) is not None for name in _IMAGES)
        if self._layers and (images or (ids is not None and ids.shape[1] > 1 and self._has_image(ids))):
            raise UnsupportedModel(
                "A new image behind a filled KV cache (a second turn, or a prompt in chunks) is not supported while a "
                "policy is attached. Run the whole conversation without past_key_values, or detach for this turn."
            )
        if self._memory is not None and (not self._layers or self._memory.first_layer < min(self._layers)):
            raise AttachError(
                f"This KV cache was shortened from layer {self._memory.first_layer} on, which the attached policy does "
                f"not reach ({self.policy!r}). Continue it with the policy that it was made with."
            )
        if self._memory is not None and self._memory.pad_right and self.anatomy.has_windows:
            raise UnsupportedModel(
                "This decoder has sliding-window layers, and the prompts were padded on the right: padding between "
                "prompt and answer would push tokens out of the window. Set tokenizer.padding_side = 'left'."
            )

    def _has_image(self, ids: Tensor) -> bool:
        return bool(sum((ids == i).any() for i in (self.anatomy.image_token_id, *self.anatomy.other_visual_ids)))

    def _after_model(self, module: nn.Module, args: Any, output: Any) -> None:
        if output is not None and self._prompt is not None:
            self._latest = self._prompt
        self._prompt = self._memory = None
        self._memo = {}
        self._running = False

    def _before_layer(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        prompt = self._prompt
        if prompt is None:
            if not self._running:
                return self._recompute(LayerCall(layer, args, kwargs, self._attention, {}))
            if self._memory is None or self._memory.kept_at[layer] is None:
                return None
            return self._decode(LayerCall(layer, args, kwargs, self._attention, self._memo), self._memory)
        if prompt.kept is None and not (prompt.waiting and layer in self._layers):
            return None
        return self._prefill(LayerCall(layer, args, kwargs, self._attention, self._memo), prompt)

    def _recompute(self, call: LayerCall) -> Any:
        """A layer outside of a forward: gradient checkpointing (some versions run hooks again), or a mistake."""
        prompt = self._latest
        if prompt is None or call.mark is None or call.mark is not prompt.marks.get(call.layer):
            raise AttachError(
                "A decoder layer ran outside of the model's forward while a policy is attached, so lookaway cannot see "
                "where the image is. Call the whole model (with gradient checkpointing: one forward, then its "
                "backward), or detach first."
            )
        kept = prompt.kept_at[call.layer]
        return None if kept is None else self._carry_out(call, prompt, prompt.stays.get(call.layer))

    # carrying decisions out ------------------------------------------------------------------------------------------

    def _prefill(self, call: LayerCall, prompt: Prompt) -> Any:
        stay = None
        if prompt.waiting and call.layer in self._layers:
            stay = prompt.ask(self.policy, call.layer, self._left(call, prompt))
            if stay is not None:
                self._remember(call, prompt)
        if prompt.kept is None:
            return None
        prompt.kept_at[call.layer], prompt.marks[call.layer] = prompt.kept, call.mark
        return self._carry_out(call, prompt, stay)

    def _left(self, call: LayerCall, prompt: Prompt) -> Tensor:
        """States of what is left, [B, S, D], for the policy."""
        return call.hidden

    def _carry_out(self, call: LayerCall, prompt: Prompt, stay: tuple[Tensor, Tensor] | None) -> Any:
        """The call on the columns that `prompt.kept_at` says; `stay`: slots that stay, where some leave just now."""
        kept, hidden = prompt.kept_at[call.layer], call.hidden
        assert kept is not None
        if stay is not None and stay[0].shape[1] < hidden.shape[1]:
            hidden = gather_rows(hidden, stay[0])
        return call.narrowed(hidden, kept, prompt.length)

    def _decode(self, call: LayerCall, memory: Memory) -> Any:
        kept = memory.kept_at[call.layer]
        assert kept is not None
        return call.narrowed_keys(kept, memory.length)

    def _remember(self, call: LayerCall, prompt: Prompt) -> None:
        """Something left: from now on the cache must know."""
        cache = call.cache
        if cache is None:
            return
        remember(cache, Memory(prompt.kept_at, prompt.length, prompt.pad_right))


class _LayerHook:
    """The pre-hook of one decoder layer."""

    def __init__(self, owner: Attachment, layer: int) -> None:
        self.owner, self.layer = owner, layer

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.owner._before_layer(self.layer, args, kwargs)


_IMAGES = ("pixel_values", "pixel_values_images", "pixel_values_videos", "mm_encoder_outputs")


def _policy_layers(policy: Policy, anatomy: Anatomy) -> frozenset[int]:
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
