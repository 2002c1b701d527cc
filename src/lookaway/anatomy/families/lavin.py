"""LaVIN (`hosts/lavin.py`), which transformers lacks."""

from __future__ import annotations

from typing import Any

from ..base import Anatomy, family
from .parts import usual


@family("lavin", "LaVIN ([this package's own class](methods/eas-hosts.md))", attention="SDPA, eager")
def lavin(model: Any) -> Anatomy:
    """A handful of class tokens an image; adapters on the attentions route by the row's modality."""
    return usual(model)
