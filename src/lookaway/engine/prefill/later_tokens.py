"""Tokens that come behind a prompt which lost columns, none of which leaves: decoding, and later turns of text.

All that changes for a layer is its part of the step's mask. Layers of one kind that hold the same columns share it; it
is made once a step, by a gather of columns that are known in advance (`cache/growing.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..cache.pruned_cache import PrunedCacheInfo
from .decoder_call import Columns, LayerCall

__all__ = ["LaterTokens"]


class LaterTokens:
    """One forward of tokens behind a cache.

    Args:
        info: what the cache holds of its first columns.
        length: columns so far, at least as many as `info` is about.
        attention: name of the attention implementation.
        ask: is told of layers that have to be asked for their mask after all.
    """

    def __init__(
        self, info: PrunedCacheInfo, length: int, attention: str, ask: Callable[[frozenset[int]], object]
    ) -> None:
        self.info, self._length, self._attention, self._ask = info, length, attention, ask
        self._masks: dict[tuple[int, int], tuple[Tensor | None, Any]] = {}
        later = info.later
        self._all_asked = later.masked or not later.full
        """Every layer that lacks columns is asked; else the first of each kind (`layers`)."""

    def layers(self, kinds: Sequence[Any]) -> frozenset[int]:
        """Layers that have to be asked for their mask in this forward.

        Where every slot of the cache is a token, a layer needs nothing as long as transformers makes no mask, as it
        does for an unpadded batch with SDPA. Then the first layer of each kind that lacks columns is enough: what it is
        given says whether the others have to be asked too. Which of the two it was last time is taken to go on.

        Args:
            kinds: [L], equal where transformers hands layers the same mask.
        """
        later = self.info.later
        if self._all_asked:
            return later.shortened
        if later.firsts is None:
            later.firsts = frozenset({kinds[layer]: layer for layer in sorted(later.shortened, reverse=True)}.values())
        return later.firsts

    def narrowed(
        self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """A layer's arguments with its part of the mask; None: they stay as they are.

        Raises:
            UnsupportedModel: the mask is of a form that cannot be narrowed.
        """
        kept, mask = self.info.kept_at[layer], kwargs.get("attention_mask")
        if kept is None or (mask is None and kept.full):
            return None
        if not self._all_asked:
            self._all_asked = True
            self._ask(self.info.later.shortened)
        key = (id(kept), id(mask))
        if key not in self._masks:
            call = LayerCall(layer, args, kwargs, self._attention, {})
            new = call.hidden.shape[1]
            keys = self.info.later.at(layer, self._length + new)
            call = call.about(Columns(None, kept, self._length, new, keys))
            self._masks[key] = (call.narrowed_mask(), mask)  # held, so that its id is not used again
        return args, {**kwargs, "attention_mask": self._masks[key][0]}

    def end(self) -> None:
        """The forward ended without an error."""
        self.info.later.masked = bool(self._masks)
