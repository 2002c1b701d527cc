"""Folders that `lookaway convert` wrote: read with the classes that a published layout needs, where it needs its own.

Anything else reads such a folder with transformers' classes of the same names. What differs then is said in
docs/models.md: LLaVA-1.6's rounding, and InternVL's need of torchvision for its video part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .plan import MARK

__all__ = ["model_class_of", "processor_of"]


def model_class_of(config: Any) -> Any:
    """The class that loads a model of this config."""
    from transformers import AutoModelForImageTextToText

    if getattr(config, MARK, None) == "llava-1.6":
        from ..llava.next_unpadding import LlavaNextForConditionalGeneration

        return LlavaNextForConditionalGeneration
    return AutoModelForImageTextToText


def processor_of(config: Any, source: str | Path) -> Any:
    """The processor in a folder whose model has this config; pictures through PIL, as the public code takes them."""
    from transformers import AutoProcessor

    layout = getattr(config, MARK, None)
    if layout is None:
        return AutoProcessor.from_pretrained(source)
    if layout == "llava-1.6":
        from ..llava.next_unpadding import LlavaNextProcessor

        return LlavaNextProcessor.from_pretrained(source, backend="pil")
    if layout == "internvl2":
        from ..internvl.processing import InternVLProcessor

        return InternVLProcessor.from_pretrained(source, backend="pil")
    return AutoProcessor.from_pretrained(source, backend="pil")
