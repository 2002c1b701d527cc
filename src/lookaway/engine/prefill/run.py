"""What one forward of an attached model carries from hook to hook; it belongs to that forward and its thread alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..cache.pruned_cache import PrunedCacheInfo
from .before_decoder import Deepstack
from .decoder_call import LayerCall
from .held_layer import HeldRun
from .later_tokens import LaterTokens
from .renumbering import GridPositions
from .row_groups import GroupRun
from .state import PrefillState
from .tail import Tail

__all__ = ["ForwardRun"]


@dataclass
class ForwardRun:
    """A forward that runs now."""

    attention: str
    """Name of the attention implementation."""
    by_row: tuple[str, ...] = ()
    """`Anatomy.row_arguments`."""
    state: PrefillState | None = None
    """Of the prompt, where this forward is a prefill."""
    past: PrunedCacheInfo | None = None
    """What the cache holds that the prompt comes behind, where it comes behind one."""
    later: LaterTokens | None = None
    """Where this forward is no prefill and comes behind a cache that lost columns."""
    fixed: bool = False
    """It continues a cache of a fixed size whose layers know themselves what they hold (`cache/fixed_size.py`)."""
    moving: Any = None
    """How the cache that is being filled moves into one of a fixed size (`into_fixed_size.py`); None: it does not."""
    whole: bool = False
    """Rows must not run in groups: somebody records what modules inside a layer give."""
    cache: Any = None
    """The KV cache that is being filled, where there is one."""
    embeds_recorded: bool = False
    """Somebody records what layer 0 is called with: it must not run in groups."""
    grid: GridPositions | None = None
    """Positions of the prompt in time, row and column, where the policy numbers them anew."""
    deepstack: Deepstack | None = None
    """Features that the decoder adds between its first layers, where they are added here instead."""
    groups: GroupRun | None = None
    """Of the layer that runs now, where it runs in groups."""
    tail: Tail | None = None
    """The layers behind the last decision; None: something may still be decided."""
    held: HeldRun | None = None
    """Of the layer that runs now, where it holds its visual tokens."""
    store: Any = None
    """Queries and keys that were caught for the policy."""
    left: Any = None
    """What the latest layer returned."""
    first_pass: Any = None
    """What rows need that may look again (`second_look.py`)."""
    memo: dict[Any, Any] = field(default_factory=dict)
    """Masks and rotary embeddings that were narrowed already."""

    def call(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LayerCall:
        """A layer's call, as its pre-hook gets it."""
        return LayerCall(layer, args, kwargs, self.attention, self.memo, self.by_row)
