"""One answer that is being drafted: what its thread's forwards have to know of each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..prefill.decoder_call import LayerCall
from .ahead import AheadLayer, check_cache
from .twig_run import TwigRun

__all__ = ["Counts", "DraftedAnswer"]


@dataclass
class Counts:
    """What became of the tokens that were guessed for one prompt's answer."""

    drafted: int = 0
    accepted: int = 0
    checks: int = 0
    """Passes of the model behind the prompt's, each of which checked a draft (of any length)."""


@dataclass
class DraftedAnswer:
    """Between two checks: the states of guessed tokens that enter layer K, and the KV cache of the layers under it."""

    twig: TwigRun | None
    mode: Literal["model", "guess", "check"] = "model"
    """What the forward that runs now is for: 'model' is an ordinary one, the prompt's; 'guess' ends before layer K."""
    states: list[Tensor] = field(default_factory=list)
    """[1, 1, D] each: the token before the draft, and all guessed ones but the last."""
    places: list[AheadLayer] = field(default_factory=list)
    caught: LayerCall | None = None
    """The call of layer K in which a guessing forward ended."""
    before: int = 0
    """Columns in front of the token before the draft."""
    record: Any = None
    """Of the prompt, once it ran."""
    counts: Counts = field(default_factory=Counts)

    def begin(self, cache: Any, layers: int) -> None:
        """A draft begins behind what `cache` holds."""
        check_cache(cache, layers)
        self.before = int(cache.get_seq_length())
        self.states = []
        self.places = [AheadLayer(place) for place in cache.layers[:layers]]

    def guess(self, forward: Callable[[], object]) -> LayerCall | None:
        """Run the layers under K on one more token; returns the call of layer K, None where it did not come to it."""
        self.mode, self.caught = "guess", None
        try:
            forward()
        except EarlyEnd:
            pass
        finally:
            self.mode = "model"
        call, self.caught = self.caught, None
        if call is not None:
            self.states.append(call.hidden)
            for place in self.places:
                place.ran()
        return call

    def hand_over(self) -> None:
        """The draft ends: the next forward checks it."""
        for place in self.places:
            place.put_back()
        self.mode = "check"

    def joined(self, hidden: Tensor) -> Tensor:
        """What enters layer K in a check, [1, n + 1, D]: the states of the draft, and that of its last token."""
        self.mode = "model"
        return torch.cat([*self.states, hidden[:, -1:]], 1)


class EarlyEnd(Exception):
    """A guessing forward came to layer K; what lies behind is for the check."""
