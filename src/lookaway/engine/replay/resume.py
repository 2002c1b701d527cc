"""A prefill that can be stopped before a layer and gone on with, as often as wanted, under one policy after another.

A search changes what happens from some layer on and leaves everything before it alone. So the states that enter that
layer are kept, and a trial runs the layers behind it only, each by the one step of a prefill
(`prefill/step.py`). The reference implementation is the whole model with the policy attached
(tests/engine/replay/test_resume.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...anatomy.base import Anatomy
from ...anatomy.find import anatomy_of
from ...core.decision import Policy
from ...core.errors import SettingsError, UnsupportedModel
from ...core.record import Trace
from ...core.vision_inputs import VisionInputs
from ..attached import check_detached, policy_layers
from ..observe.qk_capture import QKCapture, QKStore
from ..observe.vision_capture import VisionCapture
from ..prefill.before_decoder import Deepstack
from ..prefill.decoder_call import LayerCall, gather_rows
from ..prefill.renumbering import GridPositions, check_renumbering
from ..prefill.start import prompt_layout
from ..prefill.state import PrefillState
from ..prefill.step import prefill_step

__all__ = ["Paused", "pause"]


@dataclass(frozen=True, eq=False)
class Paused:
    """A batch on its way through the decoder, before layer `layer`. Values: going on leaves it as it is."""

    anatomy: Anatomy
    calls: tuple[dict[str, Any], ...]  # [L]
    """Keyword arguments of each layer in the full run, at full length."""
    attention: str
    state: PrefillState
    """What is left, and what happened so far."""
    layer: int
    hidden: Tensor  # [B, K, D]
    """Rows entering the layer; behind the last layer: rows before the norm."""
    seen: Any = None
    """Queries and keys of the layer before, for policies that rank by them; None where they cannot be read."""
    unchanged_from: int = 0
    """From this layer on the decoder leaves the states between its layers as they are (before: deepstack)."""
    vision: VisionInputs | None = None
    """What the vision tower's attention said, for policies that ask for it before the decoder."""
    deepstack: Deepstack | None = None
    """Of a run paused before layer 0: what the decoder adds behind its first layers."""
    positions: Tensor | None = None
    """Of a run paused before layer 0: the position_ids that the decoder was called with."""
    readable: bool = False
    """Queries and keys of this decoder's attention can be read, so a run that stops on the way keeps them."""

    @property
    def trace(self) -> Trace:
        """What happened so far; the layers to come count as if nothing more left."""
        return self.state.history.trace(self.anatomy.shape)

    def run(self, policy: Policy, until: int | None = None) -> Paused:
        """Go on under `policy` to before layer `until` (None: to the end).

        What the policy would have done before this layer is not done any more.

        Raises:
            SettingsError: `until` lies behind this state or behind the last layer.
            UnsupportedModel: the policy skips attention or freezes tokens, which the layers run here do not.
            AttachError, ModelMismatch: the policy does not fit the model (see `attach`).
        """
        depth = self.anatomy.num_layers
        until = depth if until is None else until
        if not self.layer <= until <= depth:
            raise SettingsError(f"A run paused before layer {self.layer} of {depth} cannot go on to layer {until}.")
        layers = policy_layers(policy, self.anatomy)
        if skipped := policy.skips(depth):
            raise UnsupportedModel(
                f"{policy!r} skips the attention of layers {sorted(skipped)}, which a run that goes on from a layer "
                "does not carry out. Judge it on the whole model: lookaway eval --policy ..."
            )
        if held := policy.holds(depth):
            raise UnsupportedModel(
                f"{policy!r} freezes visual tokens in layers {sorted(held)}, which a run that goes on from a layer "
                "does not carry out. Judge it on the whole model: lookaway eval --policy ..."
            )
        check_renumbering(self.anatomy, policy)
        state, hidden, store = self.state, self.hidden, QKStore()
        memo: dict[Any, Any] = {}
        grid = None
        if self.layer == 0 and policy.renumbers() and self.anatomy.grid_rotary is not None:
            grid = GridPositions.taken_from({"position_ids": self.positions}, self.anatomy.grid_rotary)
        captured = {layer for layer in policy.needs_attention(depth) & layers if self.layer <= layer < until}
        if self.layer < until < depth and self.readable:
            captured.add(until)
        capture = QKCapture(self.anatomy, frozenset(captured), lambda: store)
        try:
            if self.layer in captured and self.seen is not None:
                store.seen[self.layer] = self.seen
            for layer in range(self.layer, until):
                call = LayerCall(layer, (hidden,), self.calls[layer], self.attention, memo, self.anatomy.row_arguments)
                asked = policy if layer in layers and state.has_visual_tokens else None
                inputs = None if asked is None else capture.take(store, layer, state.layout)
                state, call = prefill_step(state, call, asked, inputs, vision=None if layer else self.vision, grid=grid)
                args, kwargs = call.arguments()
                hidden = self.anatomy.layers[layer](*args, **kwargs)
                if self.deepstack is not None:
                    hidden = self.deepstack.add(layer, hidden, state.kept)
        finally:
            capture.remove()
        seen = self.seen if until == self.layer else store.seen.pop(until, None)
        return replace(self, state=state, layer=until, hidden=hidden, seen=seen)

    def logits(self, columns: Tensor) -> Tensor:
        """Logits at the prompt's columns `columns` int64 [B, A], which must still be there: [B, A, vocabulary].

        Raises:
            SettingsError: the run has not ended, or one of the columns left.
        """
        if self.layer < self.anatomy.num_layers:
            raise SettingsError(f"This run is paused before layer {self.layer}; run it to the end for its logits.")
        index, valid = self.state.columns()
        slots = torch.full_like(self.state.initial.visual, -1, dtype=torch.int64)
        places = torch.arange(index.shape[1], device=index.device).expand_as(index)
        slots.scatter_(1, index, torch.where(valid, places, slots.gather(1, index)))
        found = slots.gather(1, columns)
        if bool((found < 0).any()):
            raise SettingsError("A column that was asked for is no longer there.")
        return self.anatomy.logits(gather_rows(self.hidden, found))


def pause(
    model: Any,
    inputs: Mapping[str, Any],
    layer: int | None = None,
    answers: Tensor | None = None,
    vision: bool = False,
) -> tuple[Paused, Paused]:
    """Run the model once, in full.

    Args:
        model: a supported model, or its anatomy; no policy may be attached to it.
        inputs: keyword arguments of its forward.
        layer: where to stop; 0 is before the decoder; None: the first layer inside it before which something may leave.
        answers: bool [B, S], teacher-forced answers among the inputs.
        vision: keep what the vision tower's attention says, for policies that ask for it before the decoder.

    Returns:
        (the state before `layer`, the state behind the last layer).

    Raises:
        UnsupportedModel: the decoder does something between its layers, which going on would miss; or `vision` is
            wanted of a tower that lookaway cannot read.
    """
    anatomy = model if isinstance(model, Anatomy) else anatomy_of(model)
    anatomy.require_inside("Going on from a layer")
    layer = anatomy.first_prunable_layer if layer is None else layer
    check_detached(anatomy)
    calls: list[dict[str, Any]] = []
    kept: dict[int, Tensor] = {}
    left: list[Any] = []
    changes: list[int] = []
    deepstack: list[Deepstack] = []
    positions: list[Any] = []
    tower = VisionCapture(anatomy, vision)

    def entering(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found, _ = Deepstack.taken_from(kwargs)
        deepstack.extend([found] if found is not None else [])
        positions.append(kwargs.get("position_ids"))

    def before(index: int) -> Any:
        def record(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            changed = index > 0 and left.pop() is not hidden
            if changed:
                changes.append(index)
            known = deepstack and index <= len(deepstack[0].features)  # then `Paused.run` adds it again
            if changed and index > layer and not known:  # before, its effect is in the states kept here
                raise UnsupportedModel(
                    f"This decoder changes its states between layers {index - 1} and {index}; trials that go on from a "
                    "layer would miss that. Search on the whole model instead."
                )
            calls.append({name: value for name, value in kwargs.items() if name != "hidden_states"})
            if index == layer:
                kept[index] = hidden

        return record

    hooks = [
        part.register_forward_pre_hook(before(index), with_kwargs=True) for index, part in enumerate(anatomy.layers)
    ]
    hooks += [part.register_forward_hook(lambda m, args, out: left.append(out)) for part in anatomy.layers]
    if layer == 0:
        hooks.append(anatomy.language_model.register_forward_pre_hook(entering, with_kwargs=True))
    hooks.append(anatomy.norm.register_forward_pre_hook(lambda m, args: kept.__setitem__(-1, args[0])))
    capture, store = None, QKStore()
    with suppress(UnsupportedModel):  # then a policy that ranks by attention is refused when it is asked
        capture = QKCapture(anatomy, frozenset({layer} if 0 < layer < anatomy.num_layers else ()), lambda: store)
    tower.begin(inputs)
    try:
        anatomy.backbone(**{**inputs, "use_cache": False})
    finally:
        tower.remove()
        for hook in hooks:
            hook.remove()
        if capture is not None:
            capture.remove()
    layout = prompt_layout(anatomy, inputs)
    state = PrefillState.begin(layout, anatomy.num_layers, answers=answers)
    hidden = kept.get(layer, kept[-1])
    start = Paused(anatomy, tuple(calls), anatomy.attention, state, layer, hidden, store.seen.get(layer),
                   max(changes, default=0), tower.take(layout), deepstack[0] if deepstack else None,
                   positions[0] if positions else None, capture is not None)  # fmt: skip
    return start, replace(start, layer=anatomy.num_layers, hidden=kept[-1], seen=None)
