"""The KV cache of the first K layers while they are ahead of the others: they have run on tokens not yet checked.

transformers sizes masks and positions by the first layers' length. So their state is put back before the model checks
a draft, and each of them takes its own state again when its turn comes: keys and values of the guessed tokens are
computed once. Nothing in a cache is changed in place by transformers' growing layers, so a state is their attributes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.errors import UnsupportedModel
from ..cache.skipped_slot import SkippedSlot

__all__ = ["AheadLayer", "check_cache"]


class AheadLayer:
    """One layer's place in a KV cache.

    A sliding window lets go of its oldest keys while it is ahead; those that were checked must come back, so its new
    rows are kept apart and stored again behind what it held before.
    """

    def __init__(self, place: Any) -> None:
        self._place = place
        self._window = bool(getattr(place, "is_sliding", False))
        if self._window:
            place.cumulative_length = int(place.cumulative_length)  # transformers 5.16: a tensor, counted up in place
        self._before = dict(vars(place))
        self._ahead: dict[str, Any] = {}
        self._rows: list[tuple[Tensor, Tensor]] = []
        if self._window:
            place.record_past = False

    def ran(self) -> None:
        """The layer ran on one more token."""
        if self._window:
            self._rows.append((self._place.keys[..., -1:, :], self._place.values[..., -1:, :]))

    def put_back(self) -> None:
        """The layer's state from before the draft again, for the masks of the check."""
        self._ahead = dict(vars(self._place))
        _set(self._place, self._before)

    def take_up(self) -> int | None:
        """The layer is about to check: its state behind the draft; returns how many keys its next token sees."""
        _set(self._place, self._ahead)
        return None if isinstance(self._place, SkippedSlot) else int(self._place.get_mask_sizes(1)[0])

    def checked(self) -> None:
        """The layer has run on the draft's last token."""
        self.ran()
        if self._window:
            _set(self._place, self._before)
            keys, values = zip(*self._rows, strict=True)
            self._place.update(torch.cat(keys, -2), torch.cat(values, -2))


def check_cache(cache: Any, layers: int) -> None:
    """Refuse a KV cache whose first `layers` layers are not transformers' plain growing ones.

    Raises:
        UnsupportedModel: the error names the kind that was found.
    """
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    plain = (DynamicLayer, DynamicSlidingWindowLayer, SkippedSlot)
    found = list(getattr(cache, "layers", ()))[:layers]
    wrong = next((type(place).__name__ for place in found if type(place) not in plain), None)
    if len(found) < layers and found:
        wrong = f"{len(found)} of {layers} layers"
    if getattr(cache, "offloading", False):
        wrong = "offloaded layers"
    if not hasattr(cache, "layers"):
        wrong = type(cache).__name__
    if wrong is not None:
        raise UnsupportedModel(
            f"This KV cache ({wrong}) cannot take guessed tokens back layer by layer, as drafting needs it. Use the "
            "default cache: generate(..., cache_implementation=None); or attach without draft=."
        )


def _set(place: Any, state: dict[str, Any]) -> None:
    vars(place).clear()
    vars(place).update(state)
