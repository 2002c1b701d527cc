"""The option that every command has which takes a published checkpoint as its model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class VisionTower:
    """Part of a command's `Options`."""

    vision_tower: str | None = None
    """Folder of the vision tower, where a published checkpoint (LLaVA, VILA, InternVL-Chat) only names it and it does
    not lie beside the model."""
