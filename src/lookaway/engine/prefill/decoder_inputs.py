"""What a decoder as a whole is called with, cut down to a shorter prompt at the original positions.

The only file that knows the keyword names of decoders, as `decoder_call.py` is the only one that knows those of their
layers. It serves decoders whose inside is not to be relied on (running states, convolutions, shared keys, extra
inputs of layers): the decoder gets a shorter prompt, and all that happens inside is its own affair. Rows that keep
fewer tokens are padded, as a tokenizer would pad them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.errors import UnsupportedModel
from ..cache.kept import Kept, key_columns
from .decoder_call import Columns, LayerCall, gather_rows

__all__ = ["DecoderInputs"]

PER_TOKEN = frozenset(
    {
        "moe_mm_token_type_ids", "mm_token_type_ids", "per_layer_inputs", "ple_input_ids", "token_type_ids",
    }
)  # fmt: skip
"""Keyword arguments [B, S, ...] with one entry a token."""
DEEPSTACK = {"deepstack_visual_embeds": "visual_pos_masks", "deepstack_features": "vision_mask"}
"""Features that the decoder adds at its first layers (a list, or by layer), each [N, D] over the N visual tokens that a
mask [B, S] or [B, S, 1] marks -> the mask's name."""
RUNNING = ("linear", "conv", "mamba")
"""In the names of kinds of layers whose masks are [B, S], 1 = real."""
PLACED = (
    frozenset({"inputs_embeds", "attention_mask", "position_ids", "past_key_values"})
    | PER_TOKEN | DEEPSTACK.keys() | frozenset(DEEPSTACK.values())
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class DecoderInputs:
    """The keyword arguments of a decoder's forward."""

    kwargs: Mapping[str, Any]
    attention: str
    """Name of the attention implementation."""

    @property
    def embeddings(self) -> Tensor:  # [B, S, D]
        """What enters the decoder.

        Raises:
            UnsupportedModel: the model hands over token ids, so that the image is not in them yet.
        """
        found = self.kwargs.get("inputs_embeds")
        if not isinstance(found, Tensor):
            raise UnsupportedModel(
                "This model's decoder is called with token ids and makes its embeddings itself, so visual tokens "
                "cannot leave in front of it."
            )
        return found

    @property
    def features_replace_embeddings(self) -> bool:
        """The visual tokens enter as zeros, and all that is in them is added at the decoder's layers (Granite 4)."""
        return self.kwargs.get("deepstack_features") is not None

    @property
    def shown(self) -> Tensor:  # [B, S, D]
        """What a policy is shown of the tokens: what enters, or the first features that are added to it."""
        features = self.kwargs.get("deepstack_features")
        if not features:
            return self.embeddings
        mask = self.kwargs[DEEPSTACK["deepstack_features"]]
        first = features[min(features)].to(self.embeddings.device, self.embeddings.dtype)
        return self.embeddings.masked_scatter(mask.expand_as(self.embeddings), first)

    def shorter(self, embeddings: Tensor, columns: Columns) -> dict[str, Any]:
        """The arguments for a prompt of fewer columns.

        Args:
            embeddings: [B, K, D], the rows of what is left.
            columns: what is left of the prompt, and what the cache holds of those before it.

        Raises:
            UnsupportedModel: an argument that lookaway does not know holds tensors, or a mask is of another size.
        """
        new = columns.new
        assert new is not None
        for name, value in self.kwargs.items():
            if name not in PLACED and any(True for _ in _tensors(value)):
                raise UnsupportedModel(
                    f"This model hands its decoder {name!r}, which lookaway does not know how to shorten. Removal "
                    "before the decoder is not supported on it."
                )
        changed: dict[str, Any] = {"inputs_embeds": embeddings}
        for name in PER_TOKEN & self.kwargs.keys():
            if isinstance(value := self.kwargs[name], Tensor):
                changed[name] = _taken(value, new)
        for name, marks in DEEPSTACK.items():
            if self.kwargs.get(name) is not None:
                changed |= self._features(name, marks, new)
        changed["attention_mask"] = self._mask(self.kwargs.get("attention_mask"), columns)
        changed["position_ids"] = self._positions(new, columns.before, columns.length)
        return {**self.kwargs, **changed}

    def behind(self, columns: Columns, mask: Tensor | None) -> dict[str, Any]:
        """The arguments of new tokens, none of which leaves, behind a cache that lost columns.

        Args:
            columns: `new` None; `past` says what the cache holds.
            mask: of the model's own call, [B, columns before and new], 1 = real; None: all are.
        """
        positions = self.kwargs.get("position_ids")
        if positions is None:
            first, last = columns.before, columns.before + columns.length
            positions = torch.arange(first, last, device=self.embeddings.device)[None]
        # Masks that the model made itself count columns that are gone; the decoder makes those of text from this one.
        return {**self.kwargs, "attention_mask": self._padding(mask, columns), "position_ids": positions}

    def _mask(self, mask: Any, columns: Columns) -> Any:
        if isinstance(mask, Mapping):
            return {name: self._prepared(name, part, columns) for name, part in mask.items()}
        if mask is None or mask.dim() == 2:
            return self._padding(mask, columns)
        return self._prepared("", mask, columns)

    def _prepared(self, kind: str, mask: Tensor | None, columns: Columns) -> Tensor | None:
        """A mask that goes to layers of one kind as it is; None: plain causal, or no padding for a running state."""
        if any(name in kind for name in RUNNING) or (mask is not None and mask.dim() == 2):
            padding = self._padding(mask, columns)
            return None if mask is None and bool(padding.all()) else padding
        call = LayerCall(0, (self.embeddings,), {"attention_mask": mask}, self.attention, {}, columns=columns)
        return call.narrowed_mask()

    def _padding(self, mask: Tensor | None, columns: Columns) -> Tensor:
        """[B, keys], 1 = real. Never None: without a mask transformers takes positions that jump for several sequences
        packed into one, and closes them to each other."""
        index, valid = key_columns(columns.new, columns.past, columns.before, columns.length)
        if mask is None:
            return valid.long()
        if mask.shape[1] != columns.before + columns.length:
            raise UnsupportedModel(
                f"The decoder got a mask over {mask.shape[1]} positions where {columns.before + columns.length} were "
                "expected; lookaway does not cut masks to fit. Use the default dynamic cache."
            )
        return mask.gather(1, index.to(mask.device)) * valid.to(mask.device, mask.dtype)

    def _positions(self, new: Kept, before: int, length: int) -> Tensor:
        positions = self.kwargs.get("position_ids")
        if positions is None:
            positions = torch.arange(before, before + length, device=self.embeddings.device)[None]
        index = new.index.to(positions.device)
        lead = positions.shape[:-2]
        return positions.expand(*lead, len(index), -1).gather(-1, index.expand(*lead, -1, -1))

    def _features(self, name: str, marks: str, new: Kept) -> dict[str, Any]:
        mask, features = self.kwargs[marks], self.kwargs[name]
        visual = mask.flatten(2)[:, :, 0] if mask.dim() == 3 else mask
        number = (visual.flatten().cumsum(0) - 1).view(visual.shape)  # which of the N
        index = new.index.to(visual.device)
        stays = visual.gather(1, index) & new.valid.to(visual.device)
        chosen = number.gather(1, index)[stays]
        layers = features.items() if isinstance(features, Mapping) else enumerate(features)
        few = {layer: part[chosen.to(part.device)] for layer, part in layers}
        shape = stays[:, :, None].expand(-1, -1, mask.shape[2]) if mask.dim() == 3 else stays
        return {marks: shape, name: few if isinstance(features, Mapping) else list(few.values())}


def _taken(values: Tensor, new: Kept) -> Tensor:
    """Entries of the kept columns of `values` [B, S, ...]; what only pads gets what stands there."""
    if values.dim() == 2:
        return values.gather(1, new.index.to(values.device))
    return gather_rows(values.flatten(2), new.index).unflatten(2, values.shape[2:])


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
