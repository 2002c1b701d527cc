"""Which model families are known, and which are refused: `families/` writes these tables, `find.py` reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .base import Anatomy

__all__ = ["FAMILIES", "REFUSED", "SUPPORT", "Support", "family", "refused"]

FAMILIES: dict[str, Callable[[Any], Anatomy]] = {}
"""`config.model_type` -> the function that finds its anatomy."""


@dataclass(frozen=True)
class Support:
    """What docs/support.md says of a family."""

    name: str
    """What people call it."""
    checkpoints: tuple[str, ...]
    """Hub ids that its function was written for."""
    attention: str
    """Attention implementations that it works with."""
    refuses: str
    """What is refused beyond what is refused for all families."""
    only_before: str = ""
    """Why visual tokens may leave before the decoder only; '': also inside it."""


SUPPORT: dict[str, Support] = {}
"""`config.model_type` -> what is known of its family."""


def family(
    model_type: str,
    name: str,
    *checkpoints: str,
    attention: str = "SDPA, eager, flash",
    refuses: str = "",
    only_before: str = "",
) -> Callable[[Callable[[Any], Anatomy]], Callable[[Any], Anatomy]]:
    """Decorator: this function finds the anatomy of models whose `config.model_type` is `model_type`.

    Args:
        name, checkpoints, attention, refuses, only_before: see `Support`.
    """

    def add(function: Callable[[Any], Anatomy]) -> Callable[[Any], Anatomy]:
        FAMILIES[model_type] = function
        SUPPORT[model_type] = Support(name, checkpoints, attention, refuses, only_before)
        return function

    return add


REFUSED: dict[str, tuple[str, str]] = {}
"""`config.model_type` -> (the family's name, why its visual tokens cannot leave)."""


def refused(model_type: str, name: str, reason: str) -> None:
    """Refuse models of this `config.model_type`, whatever the common pattern says of them."""
    REFUSED[model_type] = (name, reason)
