"""A twig that drafts one answer: its KV cache, filled with the prompt and kept in step with what was accepted."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..cache.growing import GrowingColumns
from ..cache.kept import window_of
from ..prefill.decoder_call import LayerCall
from ..prefill.state import PrefillState
from ..twig.growth import LiveTwig

__all__ = ["TwigRun"]


class TwigRun:
    """The keys and values of a twig's own layers for one prompt and its answer."""

    def __init__(self, twig: LiveTwig) -> None:
        self.twig = twig
        self.filled = False
        self._columns: GrowingColumns | None = None
        """Columns of the prompt, and all behind it, that entered layer K; None: all."""
        self._cache: Any = None
        self._states: list[list[dict[str, Any]]] = []
        """Of sliding windows: what the layers held behind each token of the present draft."""
        self._unseen: tuple[LayerCall, int] | None = None

    def begin(self, call: LayerCall, state: PrefillState) -> Any:
        """An empty cache for the prompt that enters layer K as `state` says, to be filled by whoever runs the twig."""
        self._columns = None if state.kept is None else GrowingColumns(state.kept, state.length)
        self.filled = True
        self._cache = _empty(len(self.twig.layers), window_of(call.cache, call.layer))
        return self._cache

    def step(self, call: LayerCall, before: int) -> Tensor:
        """The twig's layers on one token, a call of layer K at full length behind `before` columns: [1, 1, D]."""
        if self._unseen is not None:
            unseen, self._unseen = self._unseen, None
            self._run(*unseen)
        return self._run(call, before)

    def note_unseen(self, call: LayerCall, before: int) -> None:
        """The draft's last token, which the twig has not run on: it does where all of the draft is accepted."""
        self._unseen = (call, before)

    def settle(self, ran: int, accepted: int) -> None:
        """Let go of what was refused.

        Args:
            ran: tokens that the twig ran on in this draft: the one before it and all guessed but the last.
            accepted: guessed tokens that stay.
        """
        if accepted < ran:
            self._unseen = None
            for i, place in enumerate(self._cache.layers):
                if place.is_sliding:
                    vars(place).update(self._states[len(self._states) - ran + accepted][i])
                else:
                    place.crop(accepted + 1 - ran)
        self._states = []

    def _run(self, call: LayerCall, before: int) -> Tensor:
        if self._columns is not None:
            call = call.narrowed(None, self._columns.up_to(before), before, 1)
        hidden = self.twig(call, self._cache)
        if self._cache.layers[0].is_sliding:
            self._states.append([dict(vars(place)) for place in self._cache.layers])
        return hidden


def _empty(depth: int, window: int | None) -> Any:
    """A cache of `depth` layers of the kind that layer K has."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    cache = DynamicCache()
    cache.layers = [DynamicLayer() if window is None else DynamicSlidingWindowLayer(window) for _ in range(depth)]
    return cache
