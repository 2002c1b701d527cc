"""Tensor names of the original LLaVA layout in transformers', and those of the towers that it uses."""

from __future__ import annotations

from ..layouts.rules import Rule, drop, rename

__all__ = ["clip_rules", "llava_rules", "tower_inside_rules"]

LLAMA = (
    rename(r"model\.(embed_tokens|layers|norm)\.(.+)", r"model.language_model.\1.\2"),
    rename(r"lm_head\.weight", "lm_head.weight"),
)


def llava_rules(projector: str = r"model\.mm_projector") -> tuple[Rule, ...]:
    """Decoder and projector. Stored rotary frequencies are computed anew."""
    return (
        drop(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"),
        *LLAMA,
        rename(projector + r"\.0\.(weight|bias)", r"model.multi_modal_projector.linear_1.\1"),
        rename(projector + r"\.2\.(weight|bias)", r"model.multi_modal_projector.linear_2.\1"),
        rename(r"model\.image_newline", "model.image_newline"),
    )


def clip_rules(tower: str, prefix: str = r"vision_model\.") -> tuple[Rule, ...]:
    """A CLIP folder: its vision part. The text part of a whole CLIP is left out.

    Args:
        tower: where the model has its tower, with what stands before `embeddings`.
        prefix: what stands before `embeddings` in the stored names, as a pattern.
    """
    return (
        drop(r"(text_model\..+|text_projection\.weight|visual_projection\.weight|logit_scale)"),
        drop(prefix + r"embeddings\.position_ids"),
        rename(prefix + r"(.+)", tower + r"\1"),
    )


def tower_inside_rules(tower: str) -> tuple[Rule, ...]:
    """A CLIP tower that is saved inside the checkpoint, as when it was trained too."""
    return clip_rules(tower, r"model\.vision_tower\.vision_tower\.vision_model\.")
