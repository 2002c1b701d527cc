"""The attentions that can be skipped in a model: METER's, BridgeTower's, ViLT's and any LLaMA-like decoder's.

An *attention site* is one attention sub-layer. Every site is one module that no other site shares (a test holds them to
that; in the published METER code six of the 24 sites switch the same modules as six others).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import SettingsError, UnsupportedModel

__all__ = ["AttentionSite", "attention_sites", "skip_attention"]

PRE_NORM = "nothing stands between the adapter and the FFN's linear maps but the norm's gain (and, in ViLT, its shift)"
POST_NORM = "a norm follows the attention's residual, so that an adapter in its place cannot become a part of the FFN"


@dataclass(frozen=True, eq=False)
class AttentionSite:
    """One attention sub-layer of a model."""

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


def attention_sites(model: Any) -> list[AttentionSite]:
    """All sites of a model. METER's order is the published one: text-self, text-cross, image-self, image-cross.

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
        AttentionSite(index, "self", index, module, layer, attribute, True, PRE_NORM)
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
def skip_attention(model: Any, skip: Iterable[int] | Mapping[int, nn.Module]) -> Iterator[list[AttentionSite]]:
    """Within the block these sites do not attend; afterwards everything is as before, also when the body raises.

    For the encoder models (METER, ViLT). For decoders that generate use `la.attach`, which knows their caches.

    Args:
        model: a METER or ViLT model.
        skip: numbers of sites; or numbers and what stands in for each: called with (states, context), for ViLT and
            self-attention the same normed states twice, its answer [B, S, D] is what the residual gets. Without one
            the residual gets nothing.

    Raises:
        SettingsError: a number that no site has.
        UnsupportedModel: the model is no encoder model.
    """
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in ("meter", "vilt"):
        raise UnsupportedModel(f"skip_attention is for METER and ViLT; attach a policy to a {kind!r} model instead.")
    sites = attention_sites(model)
    replacements = dict(skip) if isinstance(skip, Mapping) else dict.fromkeys(skip)
    wrong = sorted(set(replacements) - set(range(len(sites))))
    if wrong:
        raise SettingsError(f"There is no site {wrong[0]}: {type(model).__name__} has sites 0 to {len(sites) - 1}.")
    before: list[tuple[nn.Module, str, Any]] = []
    try:
        for number, replacement in replacements.items():
            site = sites[number]
            if kind == "meter":
                place, attribute, value = site.module, "replacement", replacement or _Nothing()
            else:
                place, attribute, value = site.owner, site.attribute, _InVilt(replacement or _Nothing())
            before.append((place, attribute, getattr(place, attribute)))
            setattr(place, attribute, value)
        yield [sites[number] for number in replacements]
    finally:
        for place, attribute, value in reversed(before):
            setattr(place, attribute, value)


class _Nothing(nn.Module):
    """A skipped attention without an adapter."""

    def forward(self, hidden: Tensor, context: Tensor) -> Tensor:
        return torch.zeros_like(hidden)


class _InVilt(nn.Module):
    """Answers in the form of ViLT's attention module."""

    def __init__(self, replacement: nn.Module) -> None:
        super().__init__()
        self.replacement = replacement

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (self.replacement(hidden_states, hidden_states),)


def _two_streams(body: Any) -> list[AttentionSite]:
    streams = (("text", body.cross_modal_text_layers), ("image", body.cross_modal_image_layers))
    found: list[AttentionSite] = []
    for stream, layers in streams:
        for kind, attribute in (("self", "attention"), ("cross", "crossattention")):
            for number, layer in enumerate(layers):
                module = getattr(layer, attribute)
                name = f"{stream}-{kind}"
                found.append(AttentionSite(len(found), name, number, module, layer, attribute, False, POST_NORM))
    return found


def _decoder(model: Any) -> Any:
    inner = getattr(model, "model", model)
    return getattr(inner, "language_model", inner)
