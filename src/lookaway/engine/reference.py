"""`la.reference`: the reference implementation of removal. The same decisions, carried out by masking at full length.

It is written to be read, not to be fast, and shares no code with what it judges (`prefill/`): which columns are left is
one bool per column, a policy's view is built from lists, and a layer's mask is closed where columns have left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..anatomy.inputs import holds_images
from ..core.attention_inputs import AttentionInputs
from ..core.decision import Policy
from ..core.errors import AttachError, UnsupportedModel
from ..core.layout import TokenLayout
from .cache.pruned_cache import read_cache_info, write_cache_info
from .handle import Handle
from .masked_prompt import MaskedCacheInfo, MaskedPrompt
from .observe.qk_capture import QKCapture, QKStore
from .observe.vision_capture import VisionCapture
from .prefill.decoder_call import LayerCall
from .prefill.start import prompt_layout
from .refusals import check_run
from .skip.skipped_layer import CONTEXT

__all__ = ["Reference"]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class MaskedRun:
    """A forward that runs now."""

    attention: str
    store: QKStore = field(default_factory=QKStore)
    prompt: MaskedPrompt | None = None
    past: MaskedCacheInfo | None = None
    """What the cache that this forward continues must not be seen of; None: it starts one."""
    cache: Any = None
    frozen: tuple[Tensor, Tensor] | None = None
    """Of a layer that holds its visual tokens: which columns, bool [B, S], and the rows that entered it."""


class Reference(Handle):
    """A policy attached to a model by masking."""

    narrows = False

    def __init__(self, model: Any, policy: Policy, allow_other_model: bool = False) -> None:
        super().__init__(model, policy, allow_other_model)
        layers = policy.needs_attention(self.anatomy.num_layers) & self._layers
        self._capture = QKCapture(self.anatomy, layers, self._store)
        self._vision = VisionCapture(self.anatomy, policy.needs_vision())
        undo: list[Callable[[], object]] = [self._capture.remove, self._vision.remove]
        if 0 in self._layers:
            decoder = self.anatomy.language_model
            undo.append(decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True).remove)
        self._install(undo)

    def _before_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """New tokens behind a prompt that was numbered anew stand so many places earlier."""
        run: MaskedRun | None = self._here.run
        if run is None:
            return None
        positions = kwargs.get("position_ids")
        if run.past is not None and run.past.shift is not None:
            if positions is None:
                positions = torch.arange(run.past.length, run.past.length + kwargs["inputs_embeds"].shape[1])[None]
            moved = positions - run.past.shift.to(positions.device)[:, None]
            if len(positions.shape) == 3 and len(positions) == 4:
                moved[0] = positions[0]  # masks are made by these
            positions = moved
        if run.prompt is not None and self.policy.renumbers() and self.anatomy.grid_rotary is not None:
            if positions is None or positions.dim() != 3:
                raise UnsupportedModel("There are no positions in time, row and column. Use positions='original'.")
            whole = positions[-3:].expand(-1, len(run.prompt.left), -1)
            run.prompt.grid = whole.permute(1, 2, 0).tolist()
        return args, {**kwargs, "position_ids": positions}

    def _store(self) -> QKStore | None:
        run: MaskedRun | None = self._here.run
        return run.store if run is not None and run.prompt is not None and run.prompt.has_visual_tokens else None

    def _start(self, inputs: Mapping[str, Any]) -> MaskedRun:
        anatomy, cache = self.anatomy, inputs.get("past_key_values")
        run = MaskedRun(anatomy.attention)
        if self._layers:
            check_run(run.attention, cache, anatomy.has_windows)
        self._vision.begin(inputs)
        length = 0 if cache is None else cache.get_seq_length()
        behind = length > 0
        if behind:
            run.past = read_cache_info(cache)
            if run.past is None:
                run.past = MaskedCacheInfo((None,) * anatomy.num_layers, length)
            if not isinstance(run.past, MaskedCacheInfo):
                raise AttachError("This KV cache was filled under la.attach. Continue it under la.attach.")
            run.past = run.past.up_to(length)
        if not behind or ((self._layers or self.held) and holds_images(inputs)):
            layout = prompt_layout(anatomy, inputs, behind)
            run.prompt = MaskedPrompt(layout, anatomy.num_layers, self._here.answers)
            if not run.prompt.had_images:
                self._warn_without_images()
        return run

    def _end(self, run: MaskedRun, output: Any) -> None:
        prompt = run.prompt
        if prompt is None:
            return
        self._finished(prompt, prompt)
        if run.cache is None:
            return
        past = run.past or MaskedCacheInfo((None,) * self.anatomy.num_layers, 0)
        rows = len(prompt.left)
        gone_at: list[Tensor | None] = []
        for before, now in zip(past.gone_at, prompt.gone_at, strict=True):
            parts = [_columns(before, rows, past.length, prompt.left), _columns(now, rows, prompt.length, prompt.left)]
            gone_at.append(None if before is None and now is None else torch.cat(parts, 1))
        if any(gone is not None for gone in gone_at):
            shift = prompt.shift if past.shift is None else prompt.shift + past.shift
            write_cache_info(run.cache, MaskedCacheInfo(tuple(gone_at), past.length + prompt.length, shift))

    def _install_layer(self, index: int, layer: nn.Module) -> list[Callable[[], object]]:
        undo: list[Callable[[], object]] = [
            layer.register_forward_pre_hook(partial(self._before_layer, index), with_kwargs=True).remove
        ]
        if index in self.held:
            undo.append(layer.register_forward_hook(self._put_back, prepend=True).remove)
        return undo

    def _put_back(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """A layer ran whole; its visual rows are again what they were."""
        run: MaskedRun | None = self._here.run
        if run is None or run.frozen is None:
            return None
        (columns, before), run.frozen = run.frozen, None
        output = output.clone()
        output[columns] = before[columns]
        return output

    def _before_layer(self, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run: MaskedRun | None = self._here.run
        if run is None:
            raise AttachError(
                "A decoder layer ran outside of the model's forward while la.reference is on. Call the whole model, "
                "without gradient checkpointing; or detach first."
            )
        hidden = args[0] if args else kwargs["hidden_states"]
        cache, prompt = kwargs.get("past_key_values"), run.prompt
        if prompt is not None:
            run.cache = cache
            if index in self._layers and prompt.has_visual_tokens:
                columns, real = prompt.columns()
                layout = TokenLayout(real, torch.zeros_like(real), ~real)
                seen = self._capture.take(run.store, index, layout, columns if prompt.removed else None)
                vision = None if index else self._vision.take(prompt.layout)
                twig = self._twig_inputs(index, args, kwargs, prompt, run)
                hidden = prompt.ask(self.policy, index, hidden, seen, vision, twig)
                args, kwargs = (
                    (hidden, *args[1:]) if args else args,
                    kwargs if args else {**kwargs, "hidden_states": hidden},
                )
        if prompt is not None and index in self.held:
            run.frozen = prompt.layout.visual.to(hidden.device), hidden
        if index in self.skipping:
            return args, {**kwargs, CONTEXT: self._context(index, hidden, cache, run)}
        past = None if run.past is None else run.past.gone_at[index]
        new = None if prompt is None else prompt.gone
        if prompt is not None:
            prompt.gone_at[index] = new
        if past is None and new is None:
            return None
        if prompt is not None:
            kwargs = self._renumbered(prompt, kwargs, hidden)
        before = 0 if run.past is None else run.past.length
        gone = _columns(past, len(hidden), before, hidden), _columns(new, len(hidden), hidden.shape[1], hidden)
        return args, {**kwargs, "attention_mask": _closed(kwargs.get("attention_mask"), *gone, run.attention)}

    def _twig_inputs(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any], prompt: MaskedPrompt, run: MaskedRun
    ) -> AttentionInputs | None:
        """What the policy's twig ranks by, where it grows behind this layer: run at full length, then gathered."""
        if self.twig is None or index != self.twig.start:
            return None
        if run.past is not None:
            raise UnsupportedModel("A twig ranks a prompt that comes in one piece, and this one comes behind a cache.")
        hidden = args[0] if args else kwargs["hidden_states"]
        kwargs = self._renumbered(prompt, kwargs, hidden)
        if prompt.gone is not None:
            gone = _columns(None, len(hidden), 0, hidden), prompt.gone.to(hidden.device)
            kwargs = {**kwargs, "attention_mask": _closed(kwargs.get("attention_mask"), *gone, run.attention)}
        index_left, real = prompt.columns()
        seen = self.twig.ranking_inputs(LayerCall(index, args, kwargs, run.attention, {}), prompt.left)
        take = index_left.to(hidden.device)[:, None, :, None]
        queries, keys = (
            part.gather(2, take.expand(-1, part.shape[1], -1, part.shape[3])) for part in (seen.queries, seen.keys)
        )
        mask = seen.mask
        if mask is not None:
            mask = mask.expand(len(hidden), -1, -1, -1)
            mask = mask.gather(2, take.expand(-1, mask.shape[1], -1, mask.shape[3]))
            mask = mask.gather(3, take.transpose(2, 3).expand(-1, mask.shape[1], mask.shape[2], -1))
        return replace(seen, queries=queries, keys=keys, real=real.to(hidden.device), mask=mask)

    def _renumbered(self, prompt: MaskedPrompt, kwargs: dict[str, Any], hidden: Tensor) -> dict[str, Any]:
        """A layer's arguments with the rotary phases of columns' own places, where these were numbered anew."""
        if prompt.grid is not None and prompt.removed:
            assert self.anatomy.grid_rotary is not None
            positions = torch.tensor(prompt.grid, device=hidden.device).permute(2, 0, 1)
            return {**kwargs, "position_embeddings": self.anatomy.grid_rotary(hidden, positions)}
        if prompt.places is None:
            return kwargs
        places = torch.tensor(prompt.places, device=hidden.device)

        def at_places(part: Tensor) -> Tensor:
            return torch.stack([part[row if len(part) > 1 else 0][own] for row, own in enumerate(places)])

        changed: dict[str, Any] = {"position_embeddings": tuple(map(at_places, kwargs["position_embeddings"]))}
        if kwargs.get("position_ids") is not None:  # some layers scale their queries by these
            changed["position_ids"] = at_places(kwargs["position_ids"])
        return {**kwargs, **changed}

    def _context(self, index: int, hidden: Tensor, cache: Any, run: MaskedRun) -> Tensor | None:
        """What the replacement of a skipped attention knows of the prompt: made of what is left, or from the cache."""
        prompt, skipping = run.prompt, self.skipping
        slot, stays = skipping.slot_for(cache, index, behind=run.past is not None)
        if stays or prompt is None:
            return None if slot is None else slot.context
        left = prompt.left if prompt.answers is None else prompt.left & ~prompt.answers.to(prompt.left.device)
        mask = skipping.pool_mask(index, prompt.layout.text & left, left)
        context, _, prompt.means = skipping.context(index, hidden, mask, prompt.means)
        if slot is not None:
            slot.context, slot.known = context, True
        return context


def _columns(gone: Tensor | None, rows: int, length: int, like: Tensor) -> Tensor:
    """`gone`, or that nothing is, bool [B, length]."""
    return torch.zeros(rows, length, dtype=torch.bool, device=like.device) if gone is None else gone.to(like.device)


def _closed(mask: Any, past: Tensor, new: Tensor, attention: str) -> Tensor:
    """A layer's mask with columns closed: `past` bool [B, P] of the cache, `new` bool [B, S] of the call.

    Columns of the call that are gone see only themselves, so that nothing becomes NaN.
    """
    queries, keys = new.shape[1], past.shape[1] + new.shape[1]
    if mask is None:  # transformers leaves a plain causal mask to SDPA
        if attention != "sdpa":
            raise UnsupportedModel(
                f"The reference masks with SDPA or eager attention, not {attention!r}. Load the model with "
                "attn_implementation='sdpa'."
            )
        columns = torch.arange(keys, device=new.device)
        mask = (columns <= columns[-queries:, None])[None, None]
    past, new = past.to(mask.device), new.to(mask.device)
    first = keys - mask.shape[-1]  # sliding windows begin later
    closed = torch.cat([past, new], 1)[:, None, None, first:]  # [B, 1, 1, keys]
    mask = mask.expand(len(new), -1, -1, -1)
    boolean = mask.dtype == torch.bool
    mask = mask.masked_fill(closed, 0 if boolean else torch.finfo(mask.dtype).min)
    itself = nn.functional.pad(torch.diag_embed(new), (past.shape[1] - first, 0))[:, None]
    return mask.masked_fill(itself, 1 if boolean else 0)
