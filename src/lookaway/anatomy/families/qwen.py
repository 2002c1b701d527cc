"""Models whose visual tokens have positions in three dimensions (time, row, column): Qwen-VL and GLM-4V.

Text behind an image goes on from the image's largest position, so positions and columns differ; decoding adds
`rope_deltas`, which the model keeps, to the length of layer 0's cache. Removal changes neither.
"""

from __future__ import annotations

from typing import Any

from ..base import Anatomy
from ..registry import family
from .parts import usual

DEEPSTACK = "removal before the last deepstack addition (layer 3 in the released models)"


@family("qwen2_vl", "Qwen2-VL", "Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-7B-Instruct")
def qwen2_vl(model: Any) -> Anatomy:
    """As many visual tokens as the picture's size asks for; videos."""
    return _three_dimensional(model)


@family("qwen2_5_vl", "Qwen2.5-VL", "Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct")
def qwen2_5_vl(model: Any) -> Anatomy:
    """Qwen2-VL with windows in the vision tower and absolute time in videos."""
    return _three_dimensional(model)


@family("qwen3_vl", "Qwen3-VL", "Qwen/Qwen3-VL-2B-Instruct", "Qwen/Qwen3-VL-8B-Instruct", refuses=DEEPSTACK)
def qwen3_vl(model: Any) -> Anatomy:
    """Deepstack: features of several layers of the vision tower are added to the visual tokens behind the first decoder
    layers, so these must be left until the last of them was added."""
    levels = len(model.config.vision_config.deepstack_visual_indexes)
    return _three_dimensional(model, first_prunable_layer=max(1, levels))


@family("qwen3_vl_moe", "Qwen3-VL MoE", "Qwen/Qwen3-VL-30B-A3B-Instruct", refuses=DEEPSTACK)
def qwen3_vl_moe(model: Any) -> Anatomy:
    """Qwen3-VL whose FFN is a mixture of experts; its cost counts the experts that a token visits."""
    return qwen3_vl(model)


@family("glm4v", "GLM-4.1V", "zai-org/GLM-4.1V-9B-Thinking")
def glm4v(model: Any) -> Anatomy:
    """Frames of videos stand under the image's token id, between time stamps."""
    return _three_dimensional(model)


def _three_dimensional(model: Any, **more: Any) -> Anatomy:
    return usual(
        model, other_visual_ids=(model.config.video_token_id,), first_position=None,
        grid_rotary=model.model.language_model.rotary_emb, **more,
    )  # fmt: skip
