"""The common pattern of today's vision-language models, for architectures that have no function of their own.

What matches is only a candidate: the engine carries out a dry run on it before the first policy is attached
(engine/self_check.py), and refuses it where removal is not masking.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from torch import nn

from ..base import Anatomy
from .by_pattern import ON_GRIDS
from .parts import usual
from .shapes import shape_of_modules

__all__ = ["NotOfThePattern", "by_rule"]

DECODER_ARGUMENTS = {
    "self", "input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds", "use_cache", "kwargs",
    "flash_attn_kwargs", "cache_position", "output_attentions", "output_hidden_states", "output_router_logits",
    "return_dict",
}  # fmt: skip
LAYER_ARGUMENTS = {
    "self", "hidden_states", "attention_mask", "position_ids", "past_key_values", "use_cache", "position_embeddings",
    "kwargs", "cache_position", "output_attentions", "output_router_logits",
}  # fmt: skip


class NotOfThePattern(Exception):
    """The model is built otherwise; the text says where."""


def by_rule(model: Any) -> Anatomy:
    """The anatomy of a model of the common pattern.

    `model.model` merges the image into the sequence at `config.image_token_id` and hands it to one decoder with
    `layers`, `norm` and nothing but the usual arguments: no features added between layers, no cross-attention, no
    layers other than full and sliding-window attention.

    Raises:
        NotOfThePattern: something of this is missing, or there is more than this.
    """
    config, backbone, head = (getattr(model, name, None) for name in ("config", "model", "lm_head"))
    if not isinstance(backbone, nn.Module) or not isinstance(head, nn.Module):
        raise NotOfThePattern("it has no model.model with model.lm_head beside it")
    token = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    if not isinstance(token, int):
        raise NotOfThePattern("its config names no image_token_id")
    _only(backbone, {"input_ids", "attention_mask"}, None)
    text = config.get_text_config()  # type: ignore[union-attr]
    found = [m for m in backbone.modules() if _is_decoder(m, text)]
    if len(found) != 1:
        raise NotOfThePattern(f"it has {len(found)} modules that look like the decoder, not one")
    decoder: Any = found[0]
    _only(decoder, {"inputs_embeds", "attention_mask", "position_ids", "past_key_values"}, DECODER_ARGUMENTS)
    for layer in decoder.layers:
        if not isinstance(getattr(layer, "self_attn", None), nn.Module):
            raise NotOfThePattern(f"its decoder layer {type(layer).__name__} has no self_attn")
        _only(layer, {"hidden_states", "attention_mask"}, LAYER_ARGUMENTS)
    if getattr(text, "final_logit_softcapping", None) is not None:
        raise NotOfThePattern("its config caps logits (final_logit_softcapping), and not every model does as it says")
    kinds = set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        raise NotOfThePattern(f"it has layers of kind {', '.join(sorted(kinds))}")
    videos = _numbers(getattr(config, name, None) for name in ("video_token_id", "video_token_index"))
    return usual(
        model, language_model=decoder, image_token_id=token, other_visual_ids=videos, found_by="rule",
        shape=shape_of_modules(decoder.layers, model),
        # Sharing prefixes and giving positions need more than the dry run shows.
        first_position=None, prefix_is_causal=False,
        grid_rotary=decoder.rotary_emb if config.model_type in ON_GRIDS else None,  # type: ignore[union-attr]
    )  # fmt: skip


def _is_decoder(module: Any, text: Any) -> bool:
    layers = getattr(module, "layers", None)
    return (
        isinstance(layers, nn.ModuleList)
        and len(layers) == text.num_hidden_layers
        and isinstance(getattr(module, "norm", None), nn.Module)
        and getattr(getattr(module, "config", None), "model_type", None) == text.model_type
    )


def _only(module: nn.Module, needed: set[str], known: set[str] | None) -> None:
    """Raise where a module's forward lacks arguments that are needed, or has some that are not known."""
    arguments = set(inspect.signature(type(module).forward).parameters)
    if missing := needed - arguments:
        raise NotOfThePattern(f"{type(module).__name__} takes no {', '.join(sorted(missing))}")
    if known is not None and (more := arguments - known):
        raise NotOfThePattern(f"{type(module).__name__} takes {', '.join(sorted(more))}, which lookaway does not know")


def _numbers(values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(value for value in values if isinstance(value, int)))
