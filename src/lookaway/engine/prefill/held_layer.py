"""A layer that holds its visual tokens (ShortV): it runs on the text alone, which still attends to all of them.

The layer is called with the text's rows. Its own norm and key and value projections make keys and values of the frozen
rows first (queries, output projection, FFN and their share of the attention are never computed), and these are put
between those of the text before they enter the KV cache. The reference implementation runs the layer whole and puts the
frozen rows back (`engine/reference.py`).
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...anatomy.base import Anatomy
from ...anatomy.blocks import input_of_attention
from ...core.decision import Policy
from ...core.errors import AttachError, UnsupportedModel
from ...core.layout import TokenLayout
from .decoder_call import LayerCall, gather_rows
from .state import PrefillState

__all__ = ["HeldLayer", "HeldRun", "held_layers"]


def held_layers(anatomy: Anatomy, policy: Policy) -> dict[int, HeldLayer]:
    """The layers of a live model that `policy` lets hold their visual tokens.

    Raises:
        AttachError: the policy names layers that there are not, or wants more of one than a held layer gives.
        UnsupportedModel: the model's layers, or its attention implementation, cannot be split that way.
    """
    depth = anatomy.num_layers
    layers = tuple(policy.holds(depth))
    if not layers:
        return {}
    anatomy.require_inside("Freezing visual tokens")
    if list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < depth:
        raise AttachError(f"{policy!r} freezes layers {list(layers)}; this decoder has layers 0 to {depth - 1}.")
    if both := sorted(set(layers) & set(policy.skips(depth))):
        raise AttachError(
            f"{policy!r} skips the attention of layers {both} and freezes the visual tokens there, too. Let each layer "
            "do one of the two."
        )
    if ranked := sorted(layer for layer in policy.needs_attention(depth) if layer - 1 in layers):
        raise AttachError(
            f"{policy!r} ranks by attention before layers {ranked}, and the layers in front of them are frozen, where "
            "visual tokens ask nothing. Leave those out of the frozen layers, or choose a ranking that needs no "
            "attention, e.g. 'uniform' or 'diversity'."
        )
    if anatomy.attention not in ("sdpa", "eager"):
        raise UnsupportedModel(
            f"Freezing visual tokens needs a mask that says which key each text token sees; {anatomy.attention!r} "
            "takes none of that form. Load the model with attn_implementation='sdpa' or 'eager'."
        )
    if anatomy.found_by == "rule":
        raise UnsupportedModel(
            f"{anatomy.base.architecture} was found by the common pattern, which does not tell what its layers do with "
            "frozen tokens. docs/adding-a-model.md tells how to name the family."
        )
    return {layer: HeldLayer(anatomy.layers[layer], layer) for layer in layers}


@dataclass(frozen=True, eq=False)
class Split:
    """The slots of a layer that holds its visual tokens, in two rectangles; a row's own come first in each."""

    running: Tensor  # int64 [B, T]
    """Text, and behind it slots that only fill up."""
    still: Tensor  # int64 [B, H]
    """The others: visual tokens and padding."""
    is_running: Tensor  # bool [B, S]
    place: Tensor  # int64 [B, S]
    """Where each slot stands in its rectangle."""

    @classmethod
    def of(cls, layout: TokenLayout) -> Split | None:
        """None: no slot runs. One host read."""
        text = layout.text
        counts = text.sum(1)
        most, fewest = torch.stack([counts.max(), counts.min()]).tolist()
        if not most:
            return None
        order = (~text).to(torch.uint8).argsort(dim=1, stable=True)
        other = text.to(torch.uint8).argsort(dim=1, stable=True)
        place = torch.where(text, text.cumsum(1), (~text).cumsum(1)) - 1
        return cls(order[:, :most], other[:, : text.shape[1] - fewest], text, place)

    def joined(self, running: Tensor, still: Tensor) -> Tensor:
        """[B, heads, T, d] and [B, heads, H, d] -> [B, heads, S, d]."""
        source = torch.where(self.is_running, self.place, running.shape[2] + self.place).to(running.device)
        both = torch.cat([running, still], 2)
        return both.gather(2, source[:, None, :, None].expand(-1, both.shape[1], -1, both.shape[3]))


class HeldLayer:
    """One layer of a live model that holds its visual tokens while a policy is attached."""

    def __init__(self, layer: nn.Module, index: int) -> None:
        self.index = index
        self.attention, self.norm, self.queries = input_of_attention(layer, index)
        self._takes = inspect.signature(type(self.attention).forward).parameters
        self._here = _Here()
        self._own: Any = None
        self._forward: Any = None

    def install(self) -> list[Callable[[], object]]:
        """Let the query projection answer nothing while keys and values are made; returns what undoes it."""
        self._own, usual = vars(self.queries).get("forward"), self.queries.forward
        width = int(self.queries.out_features)  # type: ignore[arg-type]

        def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if self._here.quiet:
                return hidden.new_zeros(1).expand(*hidden.shape[:-1], width)
            return usual(hidden, *args, **kwargs)

        self._forward = self.queries.forward = forward
        return [self._put_back]

    def off(self) -> None:
        """Nothing is held until `on`: no prefill runs. Stays where somebody has wrapped the projection since."""
        if vars(self.queries).get("forward") is self._forward:
            self._put_back()

    def on(self) -> None:
        """Hold again, after `off`."""
        if vars(self.queries).get("forward") is self._own:
            self.queries.forward = self._forward

    def _put_back(self) -> None:
        if self._own is None:
            vars(self.queries).pop("forward", None)
        else:
            self.queries.forward = self._own

    def keys_and_values(self, call: LayerCall) -> tuple[Tensor, Tensor]:
        """Keys and values, each [B, heads, H, d], of the rows of `call`."""
        caught = _Catch()
        _, kwargs = call.with_keywords(past_key_values=caught, attention_mask=None).arguments()
        kwargs = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in self._takes.values()):
            kwargs = {name: value for name, value in kwargs.items() if name in self._takes}
        self._here.quiet = True
        try:
            self.attention.forward(hidden_states=self.norm.forward(call.hidden), **kwargs)
        except _Caught:
            return caught.found
        finally:
            self._here.quiet = False
        raise UnsupportedModel(
            f"The attention of decoder layer {self.index} stores no keys and values where lookaway could read them, so "
            "its visual tokens cannot be frozen. Leave this layer out."
        )


@dataclass(frozen=True, eq=False)
class HeldRun:
    """A held layer that runs now: what its hook needs when the text's rows come back."""

    layer: int
    hidden: Tensor  # [B, S, D]
    """Rows entering the layer."""
    split: Split | None
    """None: no text is among them, so the layer runs whole."""
    text: Tensor  # bool [B, S]

    @classmethod
    def start(cls, layer: HeldLayer, state: PrefillState, call: LayerCall) -> tuple[HeldRun, LayerCall]:
        """The run, and the layer's call on the text's rows.

        Args:
            call: narrowed to what is left, with all of its rows.
        """
        key = ("held", id(state.layout))
        if key not in call.memo:
            call.memo[key] = (Split.of(state.layout), state.layout)
        split: Split | None = call.memo[key][0]
        run = cls(layer.index, call.hidden, split, state.layout.text)
        if split is None:
            return run, call
        keys, values = layer.keys_and_values(call.at_slots(split.still))
        cache = _HeldCache(call.cache, split, keys, values)
        return run, call.at_slots(split.running).with_keywords(past_key_values=cache)

    def finish(self, output: Any) -> Tensor:
        """Rows leaving the layer, [B, S, D]: the text's as `output` has them, all others as they came.

        Raises:
            UnsupportedModel: the layer returns something else than rows.
        """
        rows = None if self.split is None else self.split.running.shape[1]
        if not isinstance(output, Tensor) or (rows is not None and output.shape[1] != rows):
            form = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UnsupportedModel(
                f"Decoder layer {self.layer} returns {form} where its rows were expected, so its visual tokens cannot "
                "be frozen. Leave this layer out."
            )
        text = self.text.to(output.device)
        if self.split is not None:
            output = gather_rows(output, torch.where(text, self.split.place.to(output.device), 0))
        return torch.where(text[:, :, None], output, self.hidden.to(output.device))


class _Here(threading.local):
    """Of one thread: whether a layer's keys and values are being made now."""

    quiet: bool = False


class _Caught(Exception):
    """Keys and values are made; the attention behind them is not wanted."""


class _Catch:
    """In a KV cache's place: takes keys and values and ends the attention there."""

    found: tuple[Tensor, Tensor]

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.found = (keys, values)
        raise _Caught


class _HeldCache:
    """The KV cache of a layer that runs on the text alone: the frozen tokens' keys and values join the text's."""

    def __init__(self, real: Any, split: Split, keys: Tensor, values: Tensor) -> None:
        self._real, self._split, self._still = real, split, (keys, values)

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = (self._split.joined(*pair) for pair in zip((keys, values), self._still, strict=True))
        return (keys, values) if self._real is None else self._real.update(keys, values, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if self._real is None:
            raise AttributeError(name)
        return getattr(self._real, name)
