"""`la.attach`: forward pre-hooks that carry a policy's decisions out by removing columns.

A hook on the module that gets `input_ids` begins a forward; hooks on the decoder layers, from the policy's first layer
on, take the one step of a prefill (`prefill/step.py`). What a forward needs belongs to that forward (`prefill/run.py`).
Layers have hooks only while some forward needs them (`layer_hooks.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from ..anatomy.inputs import holds_images, records_hidden_states, records_inner_outputs
from ..core.decision import Policy
from ..core.draft import Draft
from .cache.fixed_size import has_pruned_layers, is_fixed_size, pruned_layer
from .cache.pruned_cache import write_cache_info
from .handle import Handle
from .layer_hooks import EVERYTHING, LayerHooks, ModuleHook
from .observe.qk_capture import QKCapture, QKStore
from .observe.vision_capture import VisionCapture
from .prefill.before_decoder import Deepstack
from .prefill.decoder_call import LayerCall
from .prefill.held_layer import HeldRun
from .prefill.into_fixed_size import IntoFixedSize, check_later_turn
from .prefill.later_tokens import LaterTokens
from .prefill.renumbering import GridPositions, moved_back
from .prefill.row_groups import CannotSplit, GroupRun
from .prefill.run import ForwardRun
from .prefill.start import info_of, past_of, prompt_layout
from .prefill.state import PrefillState
from .prefill.step import entering_call, prefill_step
from .prefill.tail import Tail
from .refusals import check_held, check_run, check_second_look
from .repeated_layers import UnfinishedPrompts, outside_of_forward
from .second_look import changes_between_layers, first_output, second_pass_of, with_states

__all__ = ["Attachment"]


class Attachment(Handle):
    """A policy attached to a model by removal."""

    narrows = True
    looks_again = True

    def __init__(self, model: Any, policy: Policy, allow_other_model: bool = False, draft: Draft | None = None) -> None:
        super().__init__(model, policy, allow_other_model, draft)
        self.split = True
        """Rows that keep different numbers of tokens run in groups of like length in prefill."""
        self._unfinished = UnfinishedPrompts(self.skipping)
        self._capture = QKCapture(
            self.anatomy, policy.needs_attention(self.anatomy.num_layers) & self._layers, self._store
        )
        self._vision = VisionCapture(self.anatomy, policy.needs_vision())
        self._hooks = LayerHooks()
        self._hooks.add(self._capture)
        self._kinds, self._skipped = self.anatomy.mask_kinds, frozenset(self.skipping.layers)
        undo: list[Callable[[], object]] = [self._capture.remove, self._vision.remove]
        self._second = second_pass_of(self.anatomy, policy, self._layers)
        if self._second is not None:
            self._first_layer = min(self._first_layer, self._second.start)
            self._hooks.add(self._second.capture)
            undo.append(self._second.capture.remove)
        self._last_layer = max(self._layers, default=-1)
        self._tails = self._second is None and not self.held and not self.skipping.layers
        """Layers behind the last decision are all alike."""
        if self._hooked():
            decoder = self.anatomy.language_model
            undo.append(decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True).remove)
        if self.skipping.layers:
            undo.append(self.anatomy.model.register_forward_pre_hook(self._before_head, with_kwargs=True).remove)
            undo.append(self.anatomy.model.register_forward_hook(self._after_head, always_call=True).remove)
        for layer in self.held.values():
            undo += layer.install()
            self._hooks.add(layer)
        self._install(undo, self._hooks.all_on)
        self._undo.append(self._hooks.leave)

    def _store(self) -> QKStore | None:
        """Where queries and keys go that are seen now; None: nobody will ask for them."""
        run: ForwardRun | None = self._here.run
        return run.store if run is not None and run.state is not None and run.state.has_visual_tokens else None

    # a forward -------------------------------------------------------------------------------------------------------

    def _before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if torch.compiler.is_compiling():
            return None  # a step of decoding in a compiled graph: each layer's hook reads the cache alone
        inputs = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        moving = None
        if self._layers or self.held:
            moving = IntoFixedSize.begin(self.anatomy, self.policy, self.skipping.layers, inputs)
        if moving is None:
            super()._before_model(module, args, kwargs)
            self._hooks.begin(self._needed(self._here.run))
            return None
        super()._before_model(module, (), moving.inputs)
        self._here.run.moving = moving
        self._hooks.stay_on()  # a compiled graph holds the hooks that it met
        return (), moving.inputs

    def _after_model(self, module: nn.Module, args: Any, output: Any) -> Any:
        if torch.compiler.is_compiling():
            return None
        try:
            return super()._after_model(module, args, output)
        finally:
            self._hooks.end()

    def _needed(self, run: ForwardRun) -> frozenset[int] | None:
        """Layers whose hooks a forward needs."""
        if run.state is not None or run.fixed:
            return EVERYTHING
        return self._skipped if run.later is None else self._skipped | run.later.layers(self._kinds)

    def _before_head(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        asked = kwargs.get("logits_to_keep")
        self._here.needed = asked if isinstance(asked, int) and asked > 0 else None

    def _after_head(self, module: nn.Module, args: Any, output: Any) -> None:
        self._here.needed = None

    def _start(self, inputs: Mapping[str, Any]) -> ForwardRun:
        anatomy, cache = self.anatomy, inputs.get("past_key_values")
        fixed = is_fixed_size(cache)
        run = ForwardRun(anatomy.attention, anatomy.row_arguments)
        self._vision.begin(inputs)
        if self._layers:
            check_run(run.attention, None if fixed else cache, anatomy.has_windows)
        if fixed:
            self._hooks.stay_on()  # it may be compiled next
        run.fixed = fixed and has_pruned_layers(cache)
        if run.fixed:
            check_later_turn(inputs)
            return run
        length = 0 if cache is None else int(cache.get_seq_length())
        if length and self._layers and fixed:
            check_later_turn(inputs)
        if self.held:
            check_held(anatomy.model)
        if not length or ((self._layers or self.held or self._second) and holds_images(inputs)):
            self._start_prefill(run, inputs, length)
        else:
            info = info_of(cache, length, anatomy, self._first_layer, self.policy)
            run.later = None if info is None else LaterTokens(info, length, run.attention, self._hooks.also)
        return run

    def _start_prefill(self, run: ForwardRun, inputs: Mapping[str, Any], length: int) -> None:
        anatomy, cache = self.anatomy, inputs.get("past_key_values")
        run.whole, run.store = records_inner_outputs(inputs, anatomy.language_model.config), QKStore()
        if self._second is not None:
            check_second_look(run.whole or bool(inputs.get("output_hidden_states")), length > 0)
        if length:
            run.past = past_of(cache, length, anatomy, self._first_layer, self.policy)
        layout = prompt_layout(anatomy, inputs, length > 0)
        run.state = PrefillState.begin(layout, anatomy.num_layers, run.past, self._here.answers)
        if not run.state.has_visual_tokens:
            self._warn_without_images()

    def _end(self, run: ForwardRun, output: Any) -> Any:
        state, changed = run.state if run.tail is None else run.tail.end(), None
        if state is None:
            if run.later is not None:
                run.later.end()
            return None
        if self._second is not None and run.first_pass is not None:
            state, states = self._second.run(state, run.first_pass, first_output(output), run.cache)
            changed = with_states(output, states)
        self._finished(state, state.history)
        if torch.is_grad_enabled() and getattr(self.anatomy.model, "is_gradient_checkpointing", False):
            self._unfinished.add(state)
            self._hooks.stay_on()  # a backward pass runs layers again, whatever runs before it
        if run.cache is not None and state.removed_any:
            info = state.cache_info()
            write_cache_info(run.cache, info)
            self.skipping.sync_cache_lengths(run.cache, info)
        return changed if run.moving is None else run.moving.end(output if changed is None else changed)

    def _before_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if torch.compiler.is_compiling():
            return None
        run: ForwardRun | None = self._here.run
        if run is None:
            raise outside_of_forward()
        if run.state is None and run.later is None:
            return None
        behind = run.past if run.later is None else run.later.info
        if behind is not None and behind.shift is not None:
            kwargs = moved_back(kwargs, behind.shift)
        if run.state is not None and 0 in self._layers:
            if self.policy.renumbers() and self.anatomy.grid_rotary is not None and run.state.has_visual_tokens:
                run.grid = GridPositions.taken_from(kwargs, self.anatomy.grid_rotary)
            run.embeds_recorded = records_hidden_states(kwargs, module.config)
            run.deepstack, kwargs = Deepstack.taken_from(kwargs)
        return args, kwargs

    # a decoder layer -------------------------------------------------------------------------------------------------

    def _install_layer(self, index: int, layer: nn.Module) -> list[Callable[[], object]]:
        before = layer.register_forward_pre_hook(partial(self._before_layer, index), with_kwargs=True)
        after = layer.register_forward_hook(partial(self._after_layer, index), prepend=True)  # others see all rows
        self._hooks.add(ModuleHook(layer, before, before=True), index)
        self._hooks.add(ModuleHook(layer, after, before=False))
        return [before.remove, after.remove]

    def _before_layer(self, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        compiling = torch.compiler.is_compiling()
        run: ForwardRun | None = None if compiling else self._here.run
        if run is not None:
            if run.tail is not None:
                return run.tail.narrowed(index, args, kwargs)
            if run.later is not None and index not in self._skipped:
                return run.later.narrowed(index, args, kwargs)
        narrow = pruned_layer(kwargs.get("past_key_values"), index)
        if narrow is not None:
            return args, {**kwargs, "attention_mask": narrow.narrowed(kwargs.get("attention_mask"))}
        if compiling:
            return None
        if run is None:
            anatomy = self.anatomy
            call = LayerCall(index, args, kwargs, anatomy.attention, {}, anatomy.row_arguments)
            return self._unfinished.again(call).arguments()
        attends = index not in self.skipping
        if run.state is None and attends:
            return None  # decoding, and this layer's cache holds everything
        call = run.call(index, args, kwargs)
        if run.state is None:
            return self.skipping.continue_behind(call, self._here.needed).arguments()
        asked = self.policy if index in self._layers and run.state.has_visual_tokens else None
        if self._second is not None:
            run.first_pass = self._second.note(run.first_pass, call, run.left)
        seen = None if asked is None else self._capture.take(run.store, index, run.state.layout)
        vision = None if asked is None or index else self._vision.take(run.state.layout)
        twig = None
        if asked is not None and self.twig is not None and index == self.twig.start:
            entering = entering_call(run.state, call)
            cache = None if self.drafting is None else self.drafting.shared_cache(call, run.state)
            twig = self.twig.ranking_inputs(entering, ~run.state.layout.padding, cache)
        run.state, call = prefill_step(run.state, call, asked, seen, attends, vision, twig, run.grid)
        run.cache = call.cache
        if not attends:
            run.state, call = self.skipping.enter(run.state, call, self._here.needed)
        elif index in self.held and run.state.has_visual_tokens:
            run.held, call = HeldRun.start(self.held[index], run.state, call)
        elif self._runs_in_groups(run, index):
            try:
                run.groups, arguments = GroupRun.start(layer.forward, run.state.groups, call)
                return arguments
            except CannotSplit:
                self.split = False  # this decoder runs as one rectangle
        if self._tails and (index >= self._last_layer or not run.state.has_visual_tokens) and not self._grouped(run):
            run.tail = Tail(run.state, call)
        return call.arguments()

    def _after_layer(self, index: int, layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if torch.compiler.is_compiling():
            return None
        run: ForwardRun | None = self._here.run
        if run is None:
            return None
        if run.groups is not None:
            groups, run.groups = run.groups, None
            output = groups.finish(output)
        if run.held is not None:
            held, run.held = run.held, None
            output = held.finish(output)
        if run.deepstack is not None and run.state is not None:
            if self._second is not None:
                raise changes_between_layers(index + 1)
            output = run.deepstack.add(index, output, run.state.kept)
        run.left = output
        return output

    def _runs_in_groups(self, run: ForwardRun, index: int) -> bool:
        state = run.state
        assert state is not None
        watched = index + 1 in self._capture.layers and state.has_visual_tokens  # it is read as one rectangle
        recorded = index == 0 and run.embeds_recorded
        whole = run.whole or recorded or watched or torch.is_grad_enabled() or state.past.length > 0
        return not whole and self._grouped(run)

    def _grouped(self, run: ForwardRun) -> bool:
        """Rows keep so different numbers of tokens that layers may run in groups of them."""
        return self.split and run.state is not None and len(run.state.groups) > 1
