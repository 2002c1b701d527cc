"""Removal before the decoder alone: one hook in front of the decoder hands it a shorter prompt.

For models whose decoder mixes positions otherwise than by attention, or whose layers are called in ways that the layer
hooks (`attachment.py`) do not know. The decoder builds its own masks for the shorter prompt; positions stay those of
the whole one. So sliding windows count places in the shorter prompt, as they would had it been given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..anatomy.inputs import holds_images
from ..core.decision import Policy
from ..core.draft import Draft
from ..core.errors import AttachError, UnsupportedModel
from .cache.padding_of_mask import padding_mask
from .cache.pruned_cache import PrunedCacheInfo, sizes_as_held, write_cache_info
from .handle import Handle
from .observe.vision_capture import VisionCapture
from .prefill.decoder_call import Columns
from .prefill.decoder_inputs import DecoderInputs
from .prefill.start import past_of, prompt_layout
from .prefill.state import PrefillState
from .prefill.step import ask, check_decision
from .refusals import check_run, refuse_flash

__all__ = ["EntryAttachment"]


@dataclass
class EntryRun:
    """A forward that runs now."""

    attention: str
    mask: Tensor | None
    """Of the model's call, [B, columns in cache and new], 1 = real."""
    state: PrefillState | None = None
    """Of the prompt, where this forward is a prefill."""
    past: PrunedCacheInfo | None = None
    """What the cache holds, where this forward continues one."""
    cache: Any = None


class EntryAttachment(Handle):
    """A policy attached to a model that visual tokens may leave before the decoder only."""

    narrows = True

    def __init__(self, model: Any, policy: Policy, allow_other_model: bool = False, draft: Draft | None = None) -> None:
        super().__init__(model, policy, allow_other_model, draft)
        self._vision = VisionCapture(self.anatomy, policy.needs_vision())
        decoder = self.anatomy.language_model
        self._install(
            [
                self._vision.remove,
                decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True).remove,
                decoder.register_forward_hook(self._after_decoder, with_kwargs=True, always_call=True).remove,
            ]
        )

    def _install_layer(self, index: int, layer: nn.Module) -> list[Any]:
        return []

    def _start(self, inputs: Mapping[str, Any]) -> EntryRun:
        anatomy, cache = self.anatomy, inputs.get("past_key_values")
        self._vision.begin(inputs)
        if self._layers:
            check_run(anatomy.attention, cache, anatomy.has_windows)
            refuse_flash(anatomy.attention)
        length = 0 if cache is None else int(cache.get_seq_length())
        behind = length > 0
        run = EntryRun(anatomy.attention, None)
        if behind:
            run.past = past_of(cache, length, anatomy, self._first_layer, self.policy)
        if not behind or (self._layers and holds_images(inputs)):
            layout = prompt_layout(anatomy, inputs, behind)
            run.state = PrefillState.begin(layout, anatomy.num_layers, run.past, self._here.answers)
            if not run.state.has_visual_tokens:
                self._warn_without_images()
        tokens = inputs.get("input_ids")
        tokens = inputs.get("inputs_embeds") if tokens is None else tokens
        if isinstance(tokens, Tensor):
            run.mask = padding_mask(inputs.get("attention_mask"), cache, tokens.shape[1])
        return run

    def _before_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run: EntryRun | None = self._here.run
        if run is None:
            raise AttachError(
                "The decoder ran outside of the model's forward while a policy is attached, so lookaway cannot see "
                "where the image is. Call the whole model, or detach first."
            )
        inputs, state = DecoderInputs(kwargs, run.attention), run.state
        run.cache = kwargs.get("past_key_values")
        held = None if run.past is None else run.past.kept_at[0]
        if state is None:
            if run.past is None or held is None:
                return None
            sizes_as_held(run.cache, True)
            columns = Columns(None, held, run.past.length, inputs.embeddings.shape[1])
            return args, inputs.behind(columns, run.mask)
        embeddings = inputs.embeddings
        if self._layers and state.has_visual_tokens:
            decision = ask(state, 0, inputs.shown, self.policy, None, self._vision.take(state.layout))
            if decision.values is not None and inputs.features_replace_embeddings:
                raise UnsupportedModel(
                    f"{self.policy!r} merges visual tokens, and this model's decoder adds features to each of them "
                    "that were made before. Use one that chooses tokens: la.CDPruner(keep), la.DivPrune(keep)."
                )
            state = state.noted(0, decision.notes)
            removal = check_decision(state, 0, decision, self.policy)
            if removal is not None:
                state = state.without(0, removal)
                embeddings = removal.rows(embeddings)
        for layer in range(state.num_layers):
            state = state.entering(layer, None, attends=True)
        run.state = state
        if state.kept is None and held is None:
            return None
        sizes_as_held(run.cache, True)
        columns = Columns(state.all_kept(), held, state.past.length, state.length)
        return args, inputs.shorter(embeddings, columns)

    def _after_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        run: EntryRun | None = self._here.run
        if run is None:
            return
        sizes_as_held(run.cache, False)
        run.cache = getattr(output, "past_key_values", None) or run.cache

    def _end(self, run: EntryRun, output: Any) -> None:
        state = run.state
        if state is None:
            return
        self._finished(state, state.history)
        if run.cache is not None and state.removed_any:
            write_cache_info(run.cache, state.cache_info())
