"""A dry run that proves, or refutes, an anatomy that was found by the common pattern."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..anatomy.base import Anatomy
from ..anatomy.find import anatomy_of, refute_inside
from ..core.decision import Decision, LayerView, Policy
from ..core.errors import AttachError, UnsupportedModel
from .attachment import Attachment
from .entry_check import entry_check
from .reference import Reference

__all__ = ["self_check"]

_proven: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""Backbones that passed, with the attention implementation that they passed with."""


class _Leave(Policy):
    """Asked at every layer; the placeholders of each row leave before its own, or stay."""

    name = "dry-run"

    def __init__(self, exits: list[int]) -> None:
        self.exits = exits

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        return (0, *range(first_prunable, num_layers))

    def decide(self, view: LayerView) -> Decision:
        return Decision.drop_visual(
            view, torch.tensor([e == view.layer for e in self.exits], device=view.hidden.device)
        )


def self_check(model: Any) -> Anatomy:
    """Carry out a dry run on a model that was found by the common pattern; does nothing for known families.

    A batch of three rows of different length, with placeholders for visual tokens but no picture, and one token behind
    its cache: a policy that keeps all must change no bit, and removal must equal masking at full length. Where it does
    not, removal before the decoder remains: that must equal the decoder on each row's shorter prompt (`entry_check`).

    Returns:
        The anatomy that was proven.

    Raises:
        UnsupportedModel: neither holds, or the model cannot run the probe.
    """
    anatomy = anatomy_of(model)
    if anatomy.found_by != "rule" or _proven.get(anatomy.backbone) == anatomy.attention:
        return anatomy
    if not anatomy.only_before:
        try:
            _check_inside(model, anatomy)
        except _Refuted as why:
            refute_inside(anatomy.model, str(why))
            anatomy = anatomy_of(model)
            if not anatomy.only_before:
                raise _refusal(anatomy, str(why)) from why
    if anatomy.only_before:
        with _evaluating(anatomy.model), torch.no_grad():
            try:
                wrong = entry_check(model, anatomy)
            except AttachError:
                raise
            except Exception as error:
                raise _refusal(anatomy, f"the dry run broke off ({type(error).__name__}: {error})") from error
        if wrong:
            raise _refusal(anatomy, f"{wrong}; and {anatomy.only_before}")
    _proven[anatomy.backbone] = anatomy.attention
    return anatomy


class _Refuted(Exception):
    """Removal inside the decoder is not masking; the text says what went wrong."""


def _check_inside(model: Any, anatomy: Anatomy) -> None:
    first, last = anatomy.first_prunable_layer, anatomy.num_layers
    exits = [0, (first + last) // 2, last]
    with _evaluating(anatomy.model), torch.no_grad():
        try:
            plain = _run(anatomy, None)
            with Attachment(model, _Leave([last] * 3)):
                kept = _run(anatomy, None)
            with Attachment(model, _Leave(exits)) as fast:
                short = _run(anatomy, fast)
            with Reference(model, _Leave(exits)) as masking:
                masked = _run(anatomy, masking)
        except AttachError:
            raise
        except Exception as error:
            raise _Refuted(f"the dry run broke off ({type(error).__name__}: {error})") from error
    if not torch.equal(plain, kept):
        raise _Refuted("a policy that keeps everything changes the answer")
    wrong = float((short - masked).abs().max())
    effect, size = float((masked - plain).abs().max()), float(masked.abs().max())
    allowed = min(0.1 * effect, (1e-4 if plain.dtype == torch.float32 else 5e-2) * size)
    if not wrong <= allowed:
        raise _Refuted(f"removal differs from masking by {wrong:.2g} where {allowed:.2g} would be rounding")
    if fast.trace.cache_slots[-1] >= fast.trace.cache_slots[0]:
        raise _Refuted("the cache does not get shorter")


def _run(anatomy: Anatomy, attached: Any) -> Tensor:
    """Logits of the last two tokens of the prompt and of one token behind it, [3, 3, vocabulary]."""
    device = next(anatomy.model.parameters()).device
    draw = torch.Generator().manual_seed(0)
    words = torch.randint(3, anatomy.shape.vocab_size, (3, 20), generator=draw)
    words[words == anatomy.image_token_id] = 3
    mask = torch.ones_like(words)
    words[0, 4:14] = words[1, 6:16] = words[2, 14:17] = anatomy.image_token_id
    mask[1, :4] = mask[2, :12] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    prompt = {"input_ids": words, "attention_mask": mask, "position_ids": positions}
    out = anatomy.model(**{name: value.to(device) for name, value in prompt.items()}, use_cache=True)
    cache = out.past_key_values
    if isinstance(attached, Attachment):
        held = [layer.get_seq_length() for layer in cache.layers]
        if held != attached.trace.cache_slots:
            raise ValueError(f"its cache holds {held} tokens, not {attached.trace.cache_slots}")
    new = {
        "input_ids": words[:, :1],
        "attention_mask": torch.cat([mask, mask[:, -1:]], dim=1),
        "position_ids": positions[:, -1:] + 1,
    }
    more = anatomy.model(**{name: value.to(device) for name, value in new.items()}, past_key_values=cache)
    return torch.cat([out.logits[:, -2:], more.logits], dim=1)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each module's own mode again outside."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _refusal(anatomy: Anatomy, why: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{anatomy.base.architecture} has no family of its own, and the common pattern failed its proof: {why}. "
        "docs/adding-a-model.md tells how to add the family."
    )
