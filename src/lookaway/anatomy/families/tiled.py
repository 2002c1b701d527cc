"""Models that cut a picture into tiles, or take it at its own size, and shuffle or merge patches into visual tokens."""

from __future__ import annotations

from typing import Any

from ..base import Anatomy
from ..registry import family
from .parts import WINDOWS, usual


@family("internvl", "InternVL 2.5 to 3.5 (HF port)", "OpenGVLab/InternVL3-1B-hf", "OpenGVLab/InternVL3_5-8B-HF")
def internvl(model: Any) -> Anatomy:
    """Tiles of one size, one run of visual tokens a picture."""
    return usual(model)


@family("eagle2", "Eagle2 ([this package's own class](models.md))", "nvidia/Eagle2-1B", "nvidia/Eagle2-2B")
def eagle2(model: Any) -> Anatomy:
    """InternVL's shape around a SigLIP tower (`models/eagle2`)."""
    return usual(model)


@family("idefics3", "Idefics3", "HuggingFaceM4/Idefics3-8B-Llama3")
def idefics3(model: Any) -> Anatomy:
    """Tiles with text that names their row and column between them."""
    return usual(model, language_model=model.model.text_model, images_by_row=True)


@family("smolvlm", "SmolVLM, SmolVLM2", "HuggingFaceTB/SmolVLM2-2.2B-Instruct", "HuggingFaceTB/SmolVLM-256M-Instruct")
def smolvlm(model: Any) -> Anatomy:
    """Idefics3 made small; frames of videos are pictures."""
    return idefics3(model)


@family("mistral3", "Mistral Small 3.1 / 3.2, Ministral 3", "mistralai/Mistral-Small-3.1-24B-Instruct-2503")
def mistral3(model: Any) -> Anatomy:
    """A Pixtral tower: as many visual tokens as the picture's size asks for, a token that ends each row of them."""
    return usual(model)


@family("aya_vision", "Aya Vision", "CohereForAI/aya-vision-8b", attention="SDPA, eager", refuses=WINDOWS)
def aya_vision(model: Any) -> Anatomy:
    """Tiles; a decoder of sliding windows, and full layers without rotary positions between them."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ()
    return usual(model, unrotated=frozenset(layer for layer, kind in enumerate(kinds) if kind == "full_attention"))


@family("ovis2", "Ovis2 (HF port)", "thisisiron/Ovis2-1B-hf", "thisisiron/Ovis2-2B-hf")
def ovis2(model: Any) -> Anatomy:
    """Visual tokens are mixtures of a table of visual words; the marks around tiles are text and stay."""
    return usual(model)


@family("fast_vlm", "FastVLM (HF port)", "KamilaMila/FastVLM-0.5B", "KamilaMila/FastVLM-7B")
def fast_vlm(model: Any) -> Anatomy:
    """A convolutional tower with few visual tokens."""
    return usual(model)
