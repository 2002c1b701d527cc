"""Attention knockout: for some layers the text behind the image may not look at it; what becomes of the answer?

`blocked` does it to a live model, by its masks. `knockout_outcomes` does it for many windows of layers at once: the
text behind the image is all that changes, so the image's keys and values are those of the full run, and the windows run
as one batch of text rows that grows: a window joins at its first layer. Where the image sees the text behind it
(PaliGemma's prompts), a knockout changes the image too, and each window is a live run of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...anatomy.base import Anatomy
from ...anatomy.find import anatomy_of
from ...core.errors import DataError, UnsupportedModel
from ...core.layout import TokenLayout
from ..attached import check_detached
from ..prefill.decoder_call import LayerCall, gather_rows
from ..replay.exit_table import EncodedBatch
from ..replay.tape import LayerState, Tape, _Prefix, record_layers
from .one_forward import one_forward_at_a_time

__all__ = ["Window", "WindowOutcomes", "behind_image", "blocked", "knockout_outcomes", "record_behind_image"]

Window = tuple[int, int]
"""Layers first .. stop - 1."""
ROWS = 8192
"""Rows of text that run together at most: a long text's windows go a few at a time, at the same price."""


@dataclass(frozen=True)
class WindowOutcomes:
    """What became of one sample's teacher-forced answer, for W windows."""

    windows: tuple[Window, ...]
    loss: Tensor  # float32 [W]
    """Mean cross-entropy an answer token."""
    match: Tensor  # bool [W]
    """The argmax equals the target at every answer position."""
    agree: Tensor  # bool [W]
    """The argmax equals the full run's."""
    full_loss: float
    full_match: bool


class ImageSeesText(UnsupportedModel):
    """The image sees the text behind it, so windows cannot share one run of it."""


def behind_image(layout: TokenLayout) -> Tensor:
    """Text behind the last visual token of its row, bool [B, S]: the rows that a knockout blinds."""
    slots = torch.arange(layout.text.shape[1], device=layout.text.device)
    last = (slots * layout.visual).amax(1, keepdim=True)
    return layout.text & (slots > last) & layout.visual.any(1, keepdim=True)


@contextmanager
def blocked(model: Any, layers: Sequence[int]) -> Iterator[None]:
    """While it is open, text behind the image does not see visual tokens in these layers, in prefill. The reference.

    Args:
        model: a supported model with SDPA or eager attention and no policy attached.
        layers: decoder layers, 0-based.
    """
    anatomy = anatomy_of(model)
    anatomy.require_inside("A knockout")
    check_detached(anatomy)
    _require_masks(anatomy)
    found: list[TokenLayout] = []
    names = _parameters(anatomy.backbone)

    def before_model(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = {**dict(zip(names, args, strict=False)), **kwargs}
        cache = inputs.get("past_key_values")
        found.clear()
        if cache is None or cache.get_seq_length() == 0:
            found.append(anatomy.layout(inputs["input_ids"], inputs.get("attention_mask")))

    def before_layer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not found:
            return None
        layout, call = found[0], LayerCall(0, args, kwargs, anatomy.attention, {})
        mask = _full_mask(call.kwargs.get("attention_mask"), layout.visual.shape[1], layout.visual.device)
        pairs = behind_image(layout)[:, None, :, None] & layout.visual[:, None, None, :]
        return call.with_keywords(attention_mask=_close(mask.expand(len(pairs), -1, -1, -1), pairs)).arguments()

    with ExitStack() as stack:
        for undo in one_forward_at_a_time(anatomy.backbone):
            stack.callback(undo)
        stack.callback(anatomy.backbone.register_forward_pre_hook(before_model, with_kwargs=True).remove)
        for layer in layers:
            hook = anatomy.layers[layer].register_forward_pre_hook(before_layer, with_kwargs=True)
            stack.callback(hook.remove)
        yield


def knockout_outcomes(model: Any, batch: EncodedBatch, windows: Sequence[Window], rows: int = ROWS) -> WindowOutcomes:
    """Loss and answer of one sample for each window, by one growing batch: about two prefills for all of them.

    One prefill a window where the image sees the text behind it.

    Args:
        model: a supported model with SDPA or eager attention and no policy attached.
        batch: one sample, encoded with its answer.
        windows: in ascending order of their first layer.
        rows: of text that run together at most, which bounds the memory.

    Raises:
        DataError: more than one sample, no answer, no image, no text behind the image, or windows that do not ascend.
        UnsupportedModel: its masks cannot be read.
    """
    anatomy = anatomy_of(model)
    anatomy.require_inside("A knockout")
    if batch.answer_mask is None or len(batch.answer_mask) != 1:
        raise DataError("A knockout takes one sample with its answer: encode(processor, [sample], answers=[...]).")
    _check(windows, anatomy.num_layers)
    where = batch.answer_mask.nonzero()[:, 1][None]  # [1, A]
    wanted = batch.inputs["input_ids"].gather(1, where)
    with torch.no_grad():
        try:
            tape = record_behind_image(anatomy, batch.inputs)
        except ImageSeesText:
            full, found = _live_logits(anatomy, batch.inputs, where - 1, windows)
        else:
            slots = tape.slots(where - 1)
            full = tape.logits(gather_rows(tape.entering[-1], slots))
            parts = []
            for start in range(0, len(windows), most := max(1, rows // tape.index.shape[1])):
                states = _window_states(tape, windows[start : start + most])
                parts.append(tape.logits(gather_rows(states, slots.expand(len(states), -1))))
            found = torch.cat(parts)

    def evaluate(logits: Tensor) -> tuple[Tensor, Tensor]:
        target = wanted.expand(len(logits), -1)
        losses = nn.functional.cross_entropy(logits.float().transpose(1, 2), target, reduction="none")
        return losses.mean(1), logits.argmax(-1)

    full_loss, full_said = evaluate(full)
    loss, said = evaluate(found)
    return WindowOutcomes(
        windows=tuple(windows),
        loss=loss.cpu(),
        match=(said == wanted).all(1).cpu(),
        agree=(said == full_said).all(1).cpu(),
        full_loss=float(full_loss),
        full_match=bool((full_said == wanted).all()),
    )


def record_behind_image(anatomy: Anatomy, inputs: dict[str, Tensor]) -> Tape:
    """The tape of one full run over one row whose slots are the text behind its image.

    Each layer's `prefix` holds keys and values of everything before that text, the image among it.

    Raises:
        DataError: more than one row, padding, no image or no text behind it.
        ImageSeesText: as in PaliGemma's prompts.
    """
    _require_masks(anatomy)
    layout = anatomy.layout(inputs["input_ids"], inputs.get("attention_mask"))
    if len(layout.visual) != 1 or bool(layout.padding.any()):
        raise DataError("One sample at a time, without padding.")
    index = behind_image(layout).nonzero()[:, 1][None]  # [1, T]
    if not index.numel():
        raise DataError("This sample has no image, or no text behind it, so there is nothing to knock out.")
    start, length = int(index[0, 0]), layout.visual.shape[1]

    def narrow(call: LayerCall) -> tuple[Tensor, LayerState]:
        mask = _full_mask(call.kwargs.get("attention_mask"), length, call.hidden.device)
        if bool(_open(mask[:, :, :start, start:]).any()):
            raise ImageSeesText(
                f"In {anatomy.base.architecture} the image sees the text behind it, so blinding that text changes the "
                "image too. Use engine.knockout.blocked, one run a window, as knockout_outcomes does."
            )
        cos_sin = tuple(part[..., start:, :] for part in call.kwargs["position_embeddings"])
        return call.hidden[:, start:], LayerState(mask[:, :, start:], cos_sin, by_row=call.row_arguments())

    from transformers import DynamicCache

    cache = DynamicCache()  # without a config: every layer keeps all keys
    with record_layers(anatomy, narrow, {}) as (entering, layers):
        anatomy.backbone(**{**inputs, "past_key_values": cache, "use_cache": True})
    entering[-1] = entering[-1][:, start:]
    kept = [
        replace(state, prefix=(own.keys[:, :, :start], own.values[:, :, :start]))
        for state, own in zip(layers, cache.layers, strict=True)
    ]
    return Tape(anatomy, layout, index, torch.ones_like(index, dtype=torch.bool), entering, kept)


def _window_states(tape: Tape, windows: Sequence[Window]) -> Tensor:
    """Rows leaving the last layer for each window, [W, T, D]."""
    depth = tape.anatomy.num_layers
    starts = [start for start, _ in windows]
    visual = tape.layout.visual[:, None, None, :]  # [1, 1, 1, S]
    batch = tape.entering[0][:0]
    for layer in range(starts[0], depth):
        new = starts.count(layer)
        if new:
            batch = torch.cat([batch, tape.entering[layer].expand(new, -1, -1)])
        state = tape.layers[layer]
        assert state.mask is not None
        assert state.prefix is not None
        blind = torch.tensor([start <= layer < stop for start, stop in windows[: len(batch)]], device=batch.device)
        closed = blind[:, None, None, None] & visual
        mask = _close(state.mask.expand(len(batch), -1, -1, -1), closed)
        batch = tape.anatomy.layers[layer](
            batch,
            attention_mask=mask,
            position_embeddings=state.cos_sin,
            position_ids=None,
            past_key_values=_Prefix(*state.prefix),
            use_cache=True,
            **{name: value.expand(len(batch), *value.shape[1:]) for name, value in state.by_row.items()},
        )
    return batch


def _live_logits(
    anatomy: Anatomy, inputs: dict[str, Tensor], where: Tensor, windows: Sequence[Window]
) -> tuple[Tensor, Tensor]:
    """Logits at the columns `where` [1, A] of the full run and of one live run a window: [1, A, ...], [W, A, ...]."""

    def logits() -> Tensor:
        return gather_rows(anatomy.model(**{**inputs, "use_cache": False}).logits, where)

    found = []
    for start, stop in windows:
        with blocked(anatomy.model, range(start, stop)):
            found.append(logits())
    return logits(), torch.cat(found)


def _check(windows: Sequence[Window], depth: int) -> None:
    starts = [start for start, _ in windows]
    if not windows or starts != sorted(starts) or any(not 0 <= start < stop <= depth for start, stop in windows):
        raise DataError(f"Windows must be [first, stop) within 0 to {depth}, their first layers ascending: {windows}.")


def _full_mask(mask: Tensor | None, length: int, device: torch.device) -> Tensor:
    """The layer's mask [B or 1, 1, S, S]; causal where transformers left it to SDPA."""
    if mask is None:
        return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
    return mask[..., :length]


def _open(mask: Tensor) -> Tensor:
    """Where a mask lets a row look, bool."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def _close(mask: Tensor, pairs: Tensor) -> Tensor:
    """The mask with these pairs closed too."""
    if mask.dtype == torch.bool:
        return mask & ~pairs
    return mask.masked_fill(pairs, torch.finfo(mask.dtype).min)


def _require_masks(anatomy: Anatomy) -> None:
    if anatomy.attention not in ("sdpa", "eager"):
        raise UnsupportedModel(
            f"A knockout works on the masks of SDPA or eager attention, not {anatomy.attention!r}. Load the model with "
            "attn_implementation='sdpa'."
        )


def _parameters(module: nn.Module) -> tuple[str, ...]:
    import inspect

    return tuple(inspect.signature(type(module).forward).parameters)[1:]
