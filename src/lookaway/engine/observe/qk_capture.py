"""Queries and keys for policies that rank by attention: taken in layer k - 1, given to the policy before layer k."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from ...anatomy.base import Anatomy
from ...core.attention_inputs import AttentionInputs
from ...core.errors import UnsupportedModel
from ...core.layout import TokenLayout
from .attention_spy import beside, spy

__all__ = ["QKCapture", "QKStore"]


@dataclass
class QKStore:
    """What one forward has shown so far; it belongs to that forward alone."""

    seen: dict[int, Any] = field(default_factory=dict)
    """By the layer BEFORE which the policy wants it."""
    rotary: Any = None
    """Rotary embeddings of the attention that runs now."""


class QKCapture:
    """Catches the queries and keys that a policy asked for, one layer's at a time; nothing is copied.

    Args:
        layers: layers BEFORE which the policy wants them.
        store: of the forward that runs now in this thread; None where it is no prefill that the policy will be asked
            about.
    """

    def __init__(self, anatomy: Anatomy, layers: frozenset[int], store: Callable[[], QKStore | None]) -> None:
        self.layers = layers
        self._anatomy = anatomy
        self._store = store
        self._undo: list[Callable[[], None]] = []
        try:
            self.on()
        except BaseException:
            self.remove()
            raise

    def on(self) -> None:
        """Catch again, after `off`.

        Raises:
            UnsupportedModel: queries and keys of a layer cannot be read.
        """
        for layer in sorted(self.layers):
            attention = getattr(self._anatomy.layers[layer - 1], "self_attn", None)
            if attention is None:
                raise UnsupportedModel(
                    f"Decoder layer {layer - 1} has no self_attn, so a ranking by attention before layer {layer} "
                    "is not possible. Use a ranking that needs no attention, e.g. 'uniform' or 'diversity'."
                )
            self._undo.append(spy(attention, partial(self._see, layer)))
            self._undo.append(attention.register_forward_pre_hook(self._phases, with_kwargs=True).remove)

    def off(self) -> None:
        """Catch nothing until `on`: what runs now shows its attentions to nobody."""
        self.remove()

    def take(
        self, store: QKStore, layer: int, layout: TokenLayout, columns: Tensor | None = None
    ) -> AttentionInputs | None:
        """What the attention of `layer - 1` saw; None where nobody asked.

        Args:
            layout: of the current slots.
            columns: int64 [B, K], what these slots are where the model runs at full length; None: it runs on them.

        Raises:
            UnsupportedModel: that attention did not run, or ran over other slots.
        """
        if layer not in self.layers:
            return None
        seen = store.seen.pop(layer, None)
        if seen is None:
            raise UnsupportedModel(
                f"The attention of layer {layer - 1} did not run where it could be read (skipped, or compiled), and "
                f"the policy ranks by it before layer {layer}. Move that step of the schedule, or use a ranking that "
                "needs no attention, e.g. 'uniform' or 'diversity'."
            )
        if columns is not None:
            seen = seen.columns(columns.to(seen.queries.device))
        queries, keys, slots = seen.queries.shape[2], seen.keys.shape[2], layout.visual.shape[1]
        if not queries == keys == slots:
            raise UnsupportedModel(
                f"The attention of layer {layer - 1} had {queries} queries and {keys} keys where {slots} were "
                "expected. Use the default dynamic cache, and the prompt in one piece."
            )
        plain, real = partial(_without_phase, seen), ~layout.padding.to(seen.queries.device)
        return AttentionInputs(seen.queries, seen.keys, real, seen.scaling, plain, seen.mask)

    def remove(self) -> None:
        """Take everything off; a second call does nothing."""
        while self._undo:
            self._undo.pop()()

    def _phases(self, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        store = self._store()
        if store is not None:
            store.rotary = kwargs.get("position_embeddings")

    def _see(self, layer: int, attention: nn.Module, query: Tensor, key: Tensor, mask: Any, scaling: float) -> None:
        store = self._store()
        if store is None:
            return
        whole = isinstance(mask, Tensor) and mask.dim() == 4
        phases = () if layer - 1 in self._anatomy.unrotated else store.rotary
        if self._anatomy.found_by == "rule":  # nobody looked how it rotates
            phases = None
        store.seen[layer] = _Seen(
            attention, query.detach(), key.detach(), scaling, phases, mask[..., : key.shape[2]] if whole else None
        )
        store.rotary = None


@dataclass(frozen=True)
class _Seen:
    attention: nn.Module
    queries: Tensor  # [B, H, S, d]
    keys: Tensor  # [B, G, S, d]
    scaling: float
    cos_sin: Any
    """(cos, sin), each [B or 1, S, d]; () where this attention does not rotate."""
    mask: Tensor | None  # [B or 1, 1 or H, S, S]

    def columns(self, index: Tensor) -> _Seen:
        """Over the columns int64 [B, K] alone."""
        phases = self.cos_sin
        if isinstance(phases, tuple) and any(part.dim() > 3 for part in phases):
            phases = None  # positions of three kinds, mixed in the attention: no way back that we know
        elif isinstance(phases, tuple):
            phases = tuple(_rows(part.expand(len(index), -1, -1)[:, None], index)[:, 0] for part in phases)
        mask = self.mask
        if mask is not None:
            mask = _rows(mask.expand(len(index), -1, -1, -1), index)
            mask = mask.gather(3, index[:, None, None].expand(-1, mask.shape[1], mask.shape[2], -1))
        return _Seen(self.attention, _rows(self.queries, index), _rows(self.keys, index), self.scaling, phases, mask)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """[B, heads, S, d] -> [B, heads, K, d]."""
    return values.gather(2, index[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3]))


def _without_phase(seen: _Seen) -> tuple[Tensor, Tensor]:
    """(queries, keys) turned back by their rotary phase, with the model's own function and the opposite angle."""
    if seen.cos_sin == ():
        return seen.queries, seen.keys
    rotate = beside(seen.attention, "apply_rotary_pos_emb")
    if rotate is None or not isinstance(seen.cos_sin, tuple):
        raise UnsupportedModel(
            f"{type(seen.attention).__name__} rotates its queries and keys in a way that lookaway does not know, so it "
            "cannot rank without the rotary phase. Use the same ranking with it, e.g. 'last-token'."
        )
    cos, sin = (part.to(seen.queries.device) for part in seen.cos_sin)
    queries, keys = rotate(seen.queries, seen.keys, cos, -sin)
    length = (cos.square() + sin.square())[:, None, :, :1]  # 1, but where the family scales its rotary embedding
    return queries / length, keys / length
