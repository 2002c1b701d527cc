"""The one step of a prefill: (state, call of a layer) -> (state', call'). Ask the policy, check, gather, narrow.

Everything that removes visual tokens goes through it: the hooks of an attached policy, layers whose attention is
skipped, and runs that start in the middle of the decoder (`replay/resume.py`).

A new kind of decision is a field of `Decision`, its check beside `check_decision`, what it changes in `PrefillState`,
and what it does to the call between `gather` and `narrow`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...core.attention_inputs import AttentionInputs
from ...core.decision import Decision, LayerView, Policy
from ...core.errors import InvalidDecision, UnsupportedModel
from ...core.layout import TokenLayout
from ...core.vision_inputs import VisionInputs
from ..cache.kept import Kept
from .decoder_call import LayerCall
from .renumbering import GridPositions, number_one_by_one
from .state import PrefillState, Removal, compact

__all__ = ["ask", "check_decision", "entering_call", "later_call", "prefill_step", "repeated_step"]


def prefill_step(
    state: PrefillState,
    call: LayerCall,
    policy: Policy | None = None,
    attention_inputs: AttentionInputs | None = None,
    attends: bool = True,
    vision: VisionInputs | None = None,
    twig: AttentionInputs | None = None,
    grid: GridPositions | None = None,
) -> tuple[PrefillState, LayerCall]:
    """One decoder layer of a prefill.

    Args:
        state: before the layer.
        call: what the layer is called with; its rows are those that `state` says are left, mask and positions are of
            the whole prompt.
        policy: is asked before the layer; None: nobody is, and nothing leaves.
        attention_inputs: queries and keys of the layer before, where the policy wants them.
        attends: the layer's attention runs; else its mask and cache do not matter.
        vision: what the vision tower's attention says, where the policy wants it before the decoder.
        twig: queries and keys of the last layer of the policy's twig, before the layer that it grows behind.
        grid: the prompt's positions, where the decoder counts time, row and column and the policy numbers anew.

    Returns:
        The state after the layer's call was made, and the call on the columns that are left.

    Raises:
        InvalidDecision: the policy drops text, or answers something that is no mask of the slots.
        UnsupportedModel: the prompt's positions are none that can be numbered anew; (by `LayerCall.arguments`) the
            layer's mask cannot be narrowed.
    """
    if policy is not None and state.has_visual_tokens:
        decision = ask(state, call.layer, call.hidden, policy, attention_inputs, vision, twig)
        state = state.noted(call.layer, decision.notes)
        removal = check_decision(state, call.layer, decision, policy)
        if removal is not None:
            numbers = None
            if call.layer == 0 and policy.renumbers():
                if grid is None:
                    numbers = number_one_by_one(state.initial, removal.valid, call.kwargs)
                else:
                    numbers = grid.numbered(state.initial, removal.index, removal.valid, call.hidden)
            state = state.without(call.layer, removal, numbers)
            call = call.with_rows(removal.rows(call.hidden))
    state = state.entering(call.layer, call.mark, attends)
    return state, _narrowed(state, call, attends)


def entering_call(state: PrefillState, call: LayerCall) -> LayerCall:
    """The layer's call on the rows that are left, before anything leaves there.

    Raises:
        UnsupportedModel: the prompt comes behind earlier turns, whose keys and values a twig does not hold.
    """
    if state.past.length:
        raise UnsupportedModel(
            "A twig ranks the visual tokens of a prompt that comes in one piece; this one comes behind a KV cache. Run "
            "the whole conversation again without past_key_values."
        )
    return call if state.kept is None else _at_its_phases(state, call).narrowed(state.kept, None, 0, state.length)


def later_call(state: PrefillState, call: LayerCall) -> LayerCall:
    """The call of a layer before which nobody is asked, on what `state` says is left; the state after it has that layer
    among those that `PrefillState.entered`."""
    return _on_columns(state, call, state.kept)


def repeated_step(state: PrefillState, call: LayerCall, attends: bool = True) -> LayerCall:
    """The call of a layer that a backward pass runs again, as it was in the forward; nobody is asked.

    Args:
        state: at the end of that forward.
    """
    removal = state.removals.get(call.layer)
    if removal is not None:
        call = call.with_rows(removal.rows(call.hidden))
    return _narrowed(state, call, attends)


def ask(
    state: PrefillState,
    layer: int,
    hidden: Tensor,
    policy: Policy,
    attention_inputs: AttentionInputs | None = None,
    vision: VisionInputs | None = None,
    twig: AttentionInputs | None = None,
) -> Decision:
    """The policy's answer about the current slots, whose states are `hidden` [B, S, D].

    All that the policy sees is on the device of `hidden`. Teacher-forced answers look like padding to it.
    """
    layout, answers = state.layout, state.answers_left()
    if answers is not None:
        layout = TokenLayout(layout.visual, layout.text & ~answers, layout.padding | answers, layout.spans)
    view = LayerView(
        layer,
        state.num_layers,
        layout.to(hidden.device),
        hidden,
        state.initial_visual.to(hidden.device),
        attention_inputs,
        vision,
        state.history.notes,
        twig,
    )
    decision = policy.decide(view)
    if not isinstance(decision, Decision):
        raise InvalidDecision(f"Policy {_name(policy)} answered {type(decision).__name__}, not a Decision.")
    if decision.keep is None or answers is None:
        return decision
    keep = _mask_of_slots(decision.keep, layout, policy, layer)
    return replace(decision, keep=keep | answers)


def check_decision(state: PrefillState, layer: int, decision: Decision, policy: Policy) -> Removal | None:
    """The slots that stay; None where nothing leaves. What the host must know is read at once.

    Raises:
        InvalidDecision: the policy drops text, or answers something that is no mask of the slots, or no states of them.
    """
    if decision.keep is None:
        if decision.values is not None:
            raise InvalidDecision(
                f"Policy {_name(policy)} answered values before layer {layer} without saying which tokens stay (keep)."
            )
        return None
    layout = state.layout
    keep = _mask_of_slots(decision.keep, layout, policy, layer) & ~layout.padding
    counts = keep.sum(dim=1)
    left = TokenLayout(layout.visual & keep, layout.text & keep, layout.padding | ~keep)
    sums = [layout.counts.sum(), left.visual.sum(), (layout.text & ~keep).sum(), left.question_counts().max()]
    real, seen, text_lost, question, *lengths = torch.cat([torch.stack(sums), counts]).tolist()
    if text_lost:
        raise InvalidDecision(
            f"Policy {_name(policy)} dropped {text_lost} text tokens before layer {layer}; only visual tokens may "
            "leave. Set keep to True wherever view.layout.visual is False."
        )
    if sum(lengths) == real:
        return None
    index, valid = compact(keep, max(lengths), state.pad_right)
    changed = None
    if decision.values is not None:
        _check_values(decision.values, layout, policy, layer)
        changed = keep & layout.visual
    return Removal(index, valid, tuple(lengths), seen > 0, question, decision.values, changed)


def _narrowed(state: PrefillState, call: LayerCall, attends: bool) -> LayerCall:
    return _on_columns(state, call, state.kept_at[call.layer]) if attends else call


def _on_columns(state: PrefillState, call: LayerCall, kept: Kept | None) -> LayerCall:
    """The call on the prompt's columns `kept`, behind what the layer's cache holds."""
    past = state.past
    if kept is None and past.kept_at[call.layer] is None:
        return call
    return _at_its_phases(state, call).narrowed(kept, past.kept_at[call.layer], past.length, state.length)


def _at_its_phases(state: PrefillState, call: LayerCall) -> LayerCall:
    """The call with rotary embeddings at the new positions, where the state has such."""
    return call if state.rotary is None else call.with_keywords(position_embeddings=state.rotary)


def _mask_of_slots(keep: Tensor, layout: TokenLayout, policy: Policy, layer: int) -> Tensor:
    """A policy's mask, on the device of the layout."""
    if not isinstance(keep, Tensor) or keep.dtype != torch.bool or keep.shape != layout.visual.shape:
        found = f"{keep.dtype} {tuple(keep.shape)}" if isinstance(keep, Tensor) else type(keep).__name__
        raise InvalidDecision(
            f"Policy {_name(policy)} must answer bool {tuple(layout.visual.shape)} before layer {layer}, not {found}."
        )
    return keep.to(layout.visual.device)


def _check_values(values: Tensor, layout: TokenLayout, policy: Policy, layer: int) -> None:
    if not isinstance(values, Tensor) or values.dim() != 3 or values.shape[:2] != layout.visual.shape:
        found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InvalidDecision(
            f"Policy {_name(policy)} must answer values [{layout.visual.shape[0]}, {layout.visual.shape[1]}, hidden "
            f"size] before layer {layer}, not {found}."
        )


def _name(policy: Policy) -> str:
    return policy.name or type(policy).__name__
