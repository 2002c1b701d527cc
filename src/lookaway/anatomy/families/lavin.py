"""LaVIN (`models/lavin/model.py`), which transformers lacks."""

from __future__ import annotations

from typing import Any

from ..base import Anatomy
from ..registry import family
from .parts import usual


@family("lavin", "LaVIN ([this package's own class](methods/eas-models.md))", attention="SDPA, eager")
def lavin(model: Any) -> Anatomy:
    """A handful of class tokens an image; adapters on the attentions route by the row's modality."""
    return usual(model, row_arguments=("routing",), reads_layers="its routing", refuses_without_images=True)
