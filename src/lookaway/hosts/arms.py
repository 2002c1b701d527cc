"""The attentions that can be skipped in a host: METER's, BridgeTower's, ViLT's and any LLaMA-like decoder's.

An *arm* is one attention sub-layer. Every arm is one module that no other arm shares (a test holds them to that; in
the published METER code six of the 24 arms switch the same modules as six others).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import SettingsError, UnsupportedModel

__all__ = ["Arm", "arms_of", "skip_attention"]

PRE_NORM = "nothing stands between the adapter and the FFN's linear maps but the norm's gain (and, in ViLT, its shift)"
POST_NORM = "a norm follows the attention's residual, so that an adapter in its place cannot become a part of the FFN"


@dataclass(frozen=True, eq=False)
class Arm:
    """One attention sub-layer of a host."""

    index: int
    """Its number, from 0, as search and policies count."""
    kind: str
    """'self', or in two streams 'text-self', 'text-cross', 'image-self', 'image-cross'."""
    layer: int
    module: nn.Module
    """The attention; of METER with its residual and its norm."""
    owner: nn.Module
    """The layer it stands in, as `attribute`."""
    attribute: str
    merges: bool
    """Whether a linear adapter in its place (PIA) can be merged into the FFN."""
    why: str
    """The reason for `merges`, for tables and error texts."""

    @property
    def name(self) -> str:
        return f"{self.kind} {self.layer}"


def arms_of(model: Any) -> list[Arm]:
    """All arms of a host. METER's order is that of the published sets: text-self, text-cross, image-self, image-cross.

    Raises:
        UnsupportedModel: no attentions are known in this model.
    """
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind in ("meter", "bridgetower"):
        return _two_streams(getattr(model, kind, model))
    if kind == "vilt":
        layers, attribute = getattr(model, "vilt", model).encoder.layer, "attention"
    else:
        decoder = _decoder(model)
        layers, attribute = getattr(decoder, "layers", ()), "self_attn"
    found = [
        Arm(index, "self", index, module, layer, attribute, True, PRE_NORM)
        for index, layer in enumerate(layers)
        if isinstance(module := getattr(layer, attribute, None), nn.Module)
    ]
    if not found:
        raise UnsupportedModel(
            f"No attentions are known in {type(model).__name__} (model_type {kind!r}). Known: meter, bridgetower, "
            "vilt, lavin and decoders whose layers have a self_attn."
        )
    return found


@contextmanager
def skip_attention(model: Any, skip: Iterable[int] | Mapping[int, nn.Module]) -> Iterator[list[Arm]]:
    """Within the block these arms do not attend; afterwards everything is as before, also when the body raises.

    For the classic hosts (METER, ViLT). Decoders that generate are attached to instead: `la.attach` knows their caches.

    Args:
        model: a METER or ViLT model.
        skip: numbers of arms; or numbers and what stands in for each: called with (states, context), for ViLT and
            self-attention the same normed states twice, its answer [B, S, D] is what the residual gets. Without one
            the residual gets nothing.

    Raises:
        SettingsError: a number that no arm has.
        UnsupportedModel: the model is no classic host.
    """
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in ("meter", "vilt"):
        raise UnsupportedModel(f"skip_attention is for METER and ViLT; attach a policy to a {kind!r} model instead.")
    arms = arms_of(model)
    stand_ins = dict(skip) if isinstance(skip, Mapping) else dict.fromkeys(skip)
    wrong = sorted(set(stand_ins) - set(range(len(arms))))
    if wrong:
        raise SettingsError(f"There is no arm {wrong[0]}: {type(model).__name__} has arms 0 to {len(arms) - 1}.")
    before: list[tuple[nn.Module, str, Any]] = []
    try:
        for number, stand_in in stand_ins.items():
            arm = arms[number]
            if kind == "meter":
                place, attribute, value = arm.module, "stand_in", stand_in or _Nothing()
            else:
                place, attribute, value = arm.owner, arm.attribute, _InVilt(stand_in or _Nothing())
            before.append((place, attribute, getattr(place, attribute)))
            setattr(place, attribute, value)
        yield [arms[number] for number in stand_ins]
    finally:
        for place, attribute, value in reversed(before):
            setattr(place, attribute, value)


class _Nothing(nn.Module):
    """A skipped attention without an adapter."""

    def forward(self, hidden: Tensor, context: Tensor) -> Tensor:
        return torch.zeros_like(hidden)


class _InVilt(nn.Module):
    """Answers in the form of ViLT's attention module."""

    def __init__(self, stand_in: nn.Module) -> None:
        super().__init__()
        self.stand_in = stand_in

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (self.stand_in(hidden_states, hidden_states),)


def _two_streams(body: Any) -> list[Arm]:
    streams = (("text", body.cross_modal_text_layers), ("image", body.cross_modal_image_layers))
    found: list[Arm] = []
    for stream, layers in streams:
        for kind, attribute in (("self", "attention"), ("cross", "crossattention")):
            for number, layer in enumerate(layers):
                module = getattr(layer, attribute)
                name = f"{stream}-{kind}"
                found.append(Arm(len(found), name, number, module, layer, attribute, False, POST_NORM))
    return found


def _decoder(model: Any) -> Any:
    inner = getattr(model, "model", model)
    return getattr(inner, "language_model", inner)
