"""A task's chat messages -> a `Sample`, so that a harness' question is encoded as any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...core.errors import DataError
from ...core.record import Sample

__all__ = ["sample_of_messages"]


def sample_of_messages(messages: Sequence[Mapping[str, Any]], name: str, family: str | None = None) -> Sample:
    """The sample of a task's messages: parts {'type': 'text', 'text'} and {'type': 'image', 'url': image or path}.

    Raises:
        DataError: a message holds video or audio, which have no place here, an unknown part, or no text or
            picture where one belongs.
    """
    found, images = [], []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        kept = []
        for part in parts:
            if part["type"] == "text":
                if not isinstance(part["text"], str):
                    raise DataError(f"{name} asks with {type(part['text']).__name__} for a text; its data is damaged.")
                kept.append({"type": "text", "text": part["text"]})
            elif part["type"] == "image":
                image = part.get("url", part.get("image"))
                if image is None:
                    raise DataError(f"{name} asks about a picture that is not there; its data is damaged.")
                images.append(image)
                kept.append({"type": "image"})
            else:
                raise DataError(
                    f"{name} asks with a part of type {part['type']!r}; lookaway evaluates tasks of images and text."
                )
        found.append({"role": str(message["role"]), "content": kept})
    return Sample(id=name, messages=found, images=tuple(images), family=family)
