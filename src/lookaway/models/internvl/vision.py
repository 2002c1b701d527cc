"""InternViT as published: its config and names in transformers' `InternVLVisionModel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..layouts.request import pick
from ..layouts.rules import Rule, rename

__all__ = ["internvit_config", "internvit_rules"]


def internvit_config(config: Mapping[str, Any]) -> Any:
    """`InternVisionConfig` -> `InternVLVisionConfig`."""
    from transformers import InternVLVisionConfig

    same = pick(config, "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels",
                "image_size", "patch_size", "layer_norm_eps", "hidden_act", "initializer_range", "norm_type",
                "attention_dropout")  # fmt: skip
    same.setdefault("norm_type", "rms_norm")  # its default; the 300M towers say layer_norm
    return InternVLVisionConfig(
        **same,
        attention_bias=bool(config.get("qkv_bias", False)),
        use_qk_norm=bool(config.get("qk_normalization", True)),
        use_mean_pooling=True,  # the pooled output's norm, which InternViT has not and nothing reads
        use_absolute_position_embeddings=True,
    )


def internvit_rules(tower: str, prefix: str = "") -> tuple[Rule, ...]:
    """Names below `prefix` (a pattern) -> below `tower`. The joint qkv matrix is cut in thirds."""
    layer, ours = prefix + r"encoder\.layers\.(\d+)\.", tower + r"encoder.layer.\1."
    moved = {
        "ls1": "lambda_1", "ls2": "lambda_2",
        r"norm1\.(weight|bias)": r"layernorm_before.\2", r"norm2\.(weight|bias)": r"layernorm_after.\2",
        r"attn\.proj\.(weight|bias)": r"attention.projection_layer.\2",
        r"attn\.q_norm\.(weight|bias)": r"attention.q_norm.\2", r"attn\.k_norm\.(weight|bias)": r"attention.k_norm.\2",
        r"mlp\.(fc[12]\.(?:weight|bias))": r"mlp.\2",
    }  # fmt: skip
    parts = tuple(ours + f"attention.{part}_proj.\\2" for part in "qkv")
    return (
        rename(prefix + r"embeddings\.class_embedding", tower + "embeddings.cls_token"),
        rename(prefix + r"embeddings\.position_embedding", tower + "embeddings.position_embeddings"),
        rename(
            prefix + r"embeddings\.patch_embedding\.(weight|bias)", tower + r"embeddings.patch_embeddings.projection.\1"
        ),
        Rule(layer + r"attn\.qkv\.(weight|bias)", parts, _thirds),
        *(rename(layer + theirs, ours + place) for theirs, place in moved.items()),
    )


def _thirds(joint: Tensor) -> list[Tensor]:
    return list(joint.chunk(3))
