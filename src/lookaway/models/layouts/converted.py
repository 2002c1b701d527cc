"""Folders that `lookaway convert` wrote: read with the classes that a published layout needs, where it needs its own.

Anything else reads such a folder with transformers' classes of the same names. What differs then is said in
docs/models.md: LLaVA-1.6's rounding, and InternVL's need of torchvision for its video part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...core.errors import SettingsError
from .conversations import chat_template
from .plan import MARK

__all__ = ["model_class_of", "processor_of"]


def model_class_of(config: Any) -> Any:
    """The class that loads a model of this config."""
    from transformers import AutoModelForImageTextToText

    if getattr(config, MARK, None) == "llava-1.6":
        from ..llava.next_unpadding import LlavaNextForConditionalGeneration

        return LlavaNextForConditionalGeneration
    return AutoModelForImageTextToText


def processor_of(config: Any, source: str | Path, conversation: str | None = None) -> Any:
    """The processor in a folder whose model has this config; pictures through PIL, as the public code takes them.

    Args:
        conversation: another prompt form than the one that was saved.

    Raises:
        SettingsError: the form is not known, or the model is no converted one and has a form of its own.
    """
    from transformers import AutoProcessor

    layout = getattr(config, MARK, None)
    if layout is None:
        if conversation is not None:
            raise SettingsError(
                f"{source} is no published checkpoint in its authors' layout, nor converted from one: its chat "
                f"template is its own, and conversation ({conversation}) is for those."
            )
        return AutoProcessor.from_pretrained(source)
    processor = _class_of(layout).from_pretrained(source, backend="pil")
    if conversation is not None:
        processor.chat_template = chat_template(conversation)
    return processor


def _class_of(layout: str) -> Any:
    if layout == "llava-1.6":
        from ..llava.next_unpadding import LlavaNextProcessor

        return LlavaNextProcessor
    if layout == "internvl2":
        from ..internvl.processing import InternVLProcessor

        return InternVLProcessor
    if layout == "eagle2":
        from ..eagle2.processing import Eagle2Processor

        return Eagle2Processor
    from transformers import AutoProcessor

    return AutoProcessor
