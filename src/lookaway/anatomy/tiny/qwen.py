"""Tiny Qwen-VLs and GLM-4V: a picture is a list of patches and a grid (frames, rows, columns)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .sizes import IMAGE, TEXT, VIDEO, VOCAB, Recipe

PATCH = 4
TOWER = {"num_heads": 2, "patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2}


def _pictures(rows: Sequence[Sequence[int]], draw: torch.Generator) -> dict[str, Tensor]:
    grids = [
        (1, 2 * height // PATCH, 32 // PATCH) for row in rows for height in row
    ]  # merged 2 x 2: 16 tokens and more
    patches = sum(t * h * w for t, h, w in grids)
    return {
        "pixel_values": torch.randn(patches, 3 * 2 * PATCH * PATCH, generator=draw),
        "image_grid_thw": torch.tensor(grids),
    }


def _token_types(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ids = inputs["input_ids"]
    return {"mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int()}


def _text(layers: int, **more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    return {**TEXT, "num_hidden_layers": layers, "rope_parameters": rope, **more}


def _ids() -> dict[str, int]:
    return {
        "image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": VOCAB - 1,
        "vision_end_token_id": VOCAB - 2, "vision_token_id": VOCAB - 3,
    }  # fmt: skip


def _qwen2_vl(layers: int) -> Any:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    vision = {**TOWER, "depth": 2, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2, "initializer_range": 0.25}
    return Qwen2VLForConditionalGeneration, Qwen2VLConfig(vision_config=vision, text_config=_text(layers), **_ids())


def _qwen2_5_vl(layers: int) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = {
        **TOWER, "depth": 2, "hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 32, "window_size": 16,
        "fullatt_block_indexes": [1], "initializer_range": 0.25,
    }  # fmt: skip
    config = Qwen2_5_VLConfig(vision_config=vision, text_config=_text(layers), **_ids())
    return Qwen2_5_VLForConditionalGeneration, config


def _tower3() -> dict[str, Any]:
    return {
        **TOWER, "depth": 2, "hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 32,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0], "initializer_range": 0.25,
    }  # fmt: skip


def _qwen3_vl(layers: int) -> Any:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    text = _text(layers, head_dim=8)
    return Qwen3VLForConditionalGeneration, Qwen3VLConfig(vision_config=_tower3(), text_config=text, **_ids())


def _qwen3_vl_moe(layers: int) -> Any:
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    text = _text(layers, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
    return Qwen3VLMoeForConditionalGeneration, Qwen3VLMoeConfig(vision_config=_tower3(), text_config=text, **_ids())


def _glm4v(layers: int) -> Any:
    from transformers import Glm4vConfig, Glm4vForConditionalGeneration

    vision = {
        **TOWER, "depth": 2, "hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 32, "image_size": 32,
        "initializer_range": 0.25,
    }  # fmt: skip
    ids = {
        "image_token_id": IMAGE, "video_token_id": VIDEO, "image_start_token_id": VOCAB - 1,
        "image_end_token_id": VOCAB - 2, "video_start_token_id": VOCAB - 3, "video_end_token_id": VOCAB - 4,
    }  # fmt: skip
    return Glm4vForConditionalGeneration, Glm4vConfig(vision_config=vision, text_config=_text(layers), **ids)


def _recurrent(layers: int) -> dict[str, Any]:
    """Linear attention in all layers but each fourth; with wide weights its float32 state differs by 1e-4 between a row
    and the same row behind padding, in transformers itself."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "partial_rotary_factor": 1.0}
    return {
        **TEXT, "num_hidden_layers": layers, "rope_parameters": rope, "head_dim": 8, "linear_key_head_dim": 8,
        "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "initializer_range": 0.1,
    }  # fmt: skip


def _tower3_5() -> dict[str, Any]:
    return {name: value for name, value in _tower3().items() if name != "deepstack_visual_indexes"}


def _qwen3_5(layers: int) -> Any:
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    config = Qwen3_5Config(vision_config=_tower3_5(), text_config=_recurrent(layers), **_ids())
    return Qwen3_5ForConditionalGeneration, config


def _qwen3_5_moe(layers: int) -> Any:
    from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

    experts = {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24
    }  # fmt: skip
    text = {**_recurrent(layers), **experts}
    text.pop("intermediate_size")
    config = Qwen3_5MoeConfig(vision_config=_tower3_5(), text_config=text, **_ids())
    return Qwen3_5MoeForConditionalGeneration, config


TINY_BEFORE = {
    "qwen3_5": Recipe(_qwen3_5, _pictures, more=_token_types),
    "qwen3_5_moe": Recipe(_qwen3_5_moe, _pictures, more=_token_types),
}

TINY = {
    "qwen2_vl": Recipe(_qwen2_vl, _pictures, more=_token_types),
    "qwen2_5_vl": Recipe(_qwen2_5_vl, _pictures, more=_token_types),
    "qwen3_vl": Recipe(_qwen3_vl, _pictures, more=_token_types),
    "qwen3_vl_moe": Recipe(_qwen3_vl_moe, _pictures, more=_token_types),
    "glm4v": Recipe(_glm4v, _pictures, more=_token_types),
}
