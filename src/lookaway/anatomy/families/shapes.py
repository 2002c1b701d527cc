"""The sizes that a decoder's cost depends on: from its config alone, or from its modules where layers are not alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ...core.cost import DecoderShape, LayerShape

__all__ = ["decoder_shape", "has_experts", "shape_of_modules"]

MIXERS = ("self_attn", "attention", "self_attention", "linear_attn", "conv", "short_conv", "mixer")
"""What a layer calls the module that mixes positions."""
ACTIVE = ("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", "top_k_experts")
"""What configs call the number of experts that a token visits."""


def decoder_shape(text_config: Any, dtype_bytes: int, intermediate_size: int | None = None) -> DecoderShape:
    """The sizes of a Llama-like decoder, from its config.

    Args:
        intermediate_size: width of the FFN that a token goes through, where it is not the config's.
    """
    heads = text_config.num_attention_heads
    return DecoderShape(
        num_layers=text_config.num_hidden_layers,
        hidden_size=text_config.hidden_size,
        intermediate_size=intermediate_size or text_config.intermediate_size,
        num_heads=heads,
        num_kv_heads=getattr(text_config, "num_key_value_heads", None) or heads,
        head_dim=getattr(text_config, "head_dim", None) or text_config.hidden_size // heads,
        vocab_size=text_config.vocab_size,
        dtype_bytes=dtype_bytes,
    )


def has_experts(text_config: Any) -> bool:
    """Some FFNs are mixtures of experts, of which a token visits a few."""
    return any(_number(text_config, name) for name in ACTIVE)


def shape_of_modules(layers: Sequence[nn.Module], model: Any) -> DecoderShape:
    """The sizes of a decoder, read off its modules; `layers` stays empty where all are Llama-like and alike."""
    text = model.config.get_text_config()
    heads = _number(text, "num_attention_heads")
    found = tuple(_layer(layer, text) for layer in layers)
    shape = DecoderShape(
        num_layers=len(layers),
        hidden_size=text.hidden_size,
        intermediate_size=round(sum(layer.ffn for layer in found) / len(found) / text.hidden_size / 3),
        num_heads=heads,
        num_kv_heads=_number(text, "num_key_value_heads") or heads,
        head_dim=_number(text, "head_dim") or text.hidden_size // heads,
        vocab_size=text.vocab_size,
        dtype_bytes=model.dtype.itemsize,
    )
    return shape if all(layer == shape.layer(0) for layer in found) else replace(shape, layers=found)


def _layer(layer: nn.Module, text: Any) -> LayerShape:
    mixer = next((part for name in MIXERS if isinstance(part := getattr(layer, name, None), nn.Module)), None)
    inside = 0 if mixer is None else _multiply_adds(mixer, text)
    scores, kv, keys = (0, 0, 0) if mixer is None else _attention(mixer)
    return LayerShape(_multiply_adds(layer, text) - inside, inside - keys, keys, scores, kv)


def _multiply_adds(module: nn.Module, text: Any) -> int:
    """Entries of all matrices that one token is multiplied by; of stacked experts [E, ...], those that it visits."""
    active = next((count for name in ACTIVE if (count := _number(text, name))), 1)
    total = 0
    parts: list[Any] = list(module.modules())
    for part in parts:
        for name, weight in part.named_parameters(recurse=False):
            if name == "weight" and hasattr(part, "in_features") and hasattr(part, "out_features"):
                total += part.in_features * part.out_features  # weights of quantized linears are packed
            elif weight.dim() == 3 and not isinstance(part, nn.Conv1d):
                total += weight.numel() // len(weight) * active
            elif weight.dim() >= 2 and not isinstance(part, nn.Embedding):
                total += weight.numel()
    for part in parts:
        if isinstance(part, nn.ModuleList) and len(part) > active and _are_experts(part):
            total -= (len(part) - active) * _multiply_adds(part[0], text)
    return total


def _are_experts(parts: nn.ModuleList) -> bool:
    return len({type(part) for part in parts}) == 1 and "expert" in type(parts[0]).__name__.lower()


def _attention(mixer: Any) -> tuple[int, int, int]:
    """Of an attention: multiply-adds of a query and a key, elements cached for a token, multiply-adds that make these;
    (0, 0, 0) of anything else."""
    out, key, value = (
        _linear(mixer, "o_proj", "out_proj", "dense", "wo"),
        _linear(mixer, "k_proj"),
        _linear(mixer, "v_proj"),
    )
    if out is None:
        return 0, 0, 0
    width = out.in_features
    if key is not None:
        kv = key.out_features + (value or key).out_features
        return 2 * width, kv, key.in_features * kv
    if hasattr(mixer, "kv_b_proj"):  # multi-head latent attention: transformers caches keys and values of every head
        heads = width // mixer.v_head_dim
        each = heads * (mixer.qk_head_dim + mixer.v_head_dim)
        keys = sum(part.in_features * part.out_features for part in (mixer.kv_a_proj_with_mqa, mixer.kv_b_proj))
        return each, each, keys
    fused = _linear(mixer, "qkv_proj", "query_key_value", "att_proj")
    if fused is None:
        return 0, 0, 0
    kv = fused.out_features - width
    return 2 * width, kv, fused.in_features * kv


def _linear(owner: Any, *names: str) -> Any:
    found = (getattr(owner, name, None) for name in names)
    return next((part for part in found if hasattr(part, "in_features")), None)


def _number(config: Any, name: str) -> int:
    try:
        value = getattr(config, name, None)
    except Exception:  # some configs refuse what differs by layer, with errors of their own
        return 0
    return value if isinstance(value, int) else 0
