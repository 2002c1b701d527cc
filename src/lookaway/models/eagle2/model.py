"""Eagle2: transformers' InternVL (pixel shuffle, projector, decoder) under a config that gives it a SigLIP tower."""

from __future__ import annotations

from transformers import InternVLForConditionalGeneration

from .config import Eagle2Config

__all__ = ["Eagle2ForConditionalGeneration"]


class Eagle2ForConditionalGeneration(InternVLForConditionalGeneration):
    """pixel_values [tiles, 3, H, H] -> (H / patch / 2) ** 2 visual tokens a tile, in front of a Qwen2 decoder."""

    config_class = Eagle2Config
    config: Eagle2Config
