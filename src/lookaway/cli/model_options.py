"""The options that every command has which takes a published checkpoint as its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """Part of a command's `Options`; `**options.published` goes to `load_model`."""

    vision_tower: str | None = None
    """Folder of the vision tower, where a published checkpoint (LLaVA, VILA, InternVL-Chat) only names it and it does
    not lie beside the model."""
    conversation: str | None = None
    """Prompt form of a published checkpoint (vicuna_v1, llava_v1, ...); default: the one that its authors evaluate
    with."""

    @property
    def published(self) -> dict[str, Any]:
        """Arguments of `load_model`."""
        return {"vision_tower": self.vision_tower, "conversation": self.conversation}
