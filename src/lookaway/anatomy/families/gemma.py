"""Google's models: visual tokens that see each other both ways, decoder layers with sliding windows between full ones.

Windows count places in the whole prompt, also behind a removal (engine/cache/pruned_cache.py,
engine/prefill/decoder_call.py).
"""

from __future__ import annotations

import inspect
from typing import Any

from ..base import Anatomy
from ..registry import family
from .parts import WINDOWS, tower_attention, usual


@family("gemma3", "Gemma 3", "google/gemma-3-4b-it", "google/gemma-3-27b-it", attention="SDPA, eager", refuses=WINDOWS)
def gemma3(model: Any) -> Anatomy:
    """Every picture, or crop of it, is the same number of visual tokens, pooled to a square."""
    side = int(model.config.mm_tokens_per_image**0.5)
    return usual(model, grid=(side, side))


@family(
    "paligemma",
    "PaliGemma 1 and 2",
    "google/paligemma-3b-mix-224",
    "google/paligemma2-3b-mix-224",
    attention="SDPA (1), eager",
    refuses=f"PaliGemma 2: {WINDOWS}",
)
def paligemma(model: Any) -> Anatomy:
    """Picture and prompt all see each other, only the answer is causal: text in front of the image has seen it too."""
    vision = model.config.vision_config
    side = vision.image_size // vision.patch_size
    caps = "final_logit_softcapping" in inspect.unwrap(type(model).forward).__code__.co_consts  # transformers 5.16: no
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None) if caps else None
    return usual(
        model, grid=(side, side), first_position=1, prefix_is_causal=False, softcap=softcap,
        vision=tower_attention(model.model.vision_tower, -1, class_token=False),
    )  # fmt: skip
