"""The attention block of a decoder layer: the module, the norms beside it, the linears that the FFN begins with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UnsupportedModel

__all__ = ["AttentionBlock", "attention_block", "input_of_attention", "norm_gain"]

ATTENTIONS = ("self_attn", "attention")
FFN_NORMS = ("pre_feedforward_layernorm", "post_attention_layernorm")  # Gemma has both, the second behind attention
FFN_IN = (("gate_proj", "up_proj"), ("gate_up_proj",), ("w1", "w3"), ("fc1",))
QUERIES = ("q_proj", "wq")
OUTS = ("o_proj", "out_proj", "wo")


@dataclass(frozen=True, eq=False)
class AttentionBlock:
    """What skipping the attention of a pre-norm layer touches."""

    layer: int
    attention: nn.Module
    input_norm: nn.Module
    """norm_a: what the attention reads is normed by it."""
    ffn_norm: nn.Module
    """norm_f: what the FFN reads is normed by it."""
    ffn_in: tuple[nn.Module, ...]
    """The linears that read it; empty where the FFN is of no known form."""
    out: nn.Module | None
    """The attention's last linear."""


def attention_block(layer: nn.Module, index: int) -> AttentionBlock:
    """Find the block of a decoder layer.

    Raises:
        UnsupportedModel: the layer is not `x + attention(norm(x))`, then `+ FFN(norm(x))`, under names that are known.
    """
    attention = _first(layer, ATTENTIONS)
    input_norm, ffn_norm = _first(layer, ("input_layernorm",)), _first(layer, FFN_NORMS)
    if attention is None or input_norm is None or ffn_norm is None:
        missing = "attention" if attention is None else "norm before its attention and its FFN"
        raise UnsupportedModel(
            f"Decoder layer {index} ({type(layer).__name__}) has no {missing} under a name that lookaway knows, so its "
            f"attention cannot be skipped. Known: {', '.join(ATTENTIONS)}; input_layernorm; {', '.join(FFN_NORMS)}."
        )
    ffn: Any = _first(layer, ("mlp", "feed_forward"))
    linears: tuple[nn.Module, ...] = ()
    for names in FFN_IN:
        found = [_first(ffn, (name,)) for name in names] if ffn is not None else []
        if found and all(part is not None for part in found):
            linears = tuple(part for part in found if part is not None)
            break
    return AttentionBlock(index, attention, input_norm, ffn_norm, linears, _first(attention, OUTS))


def input_of_attention(layer: nn.Module, index: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """What a layer's keys and values are made by: its attention, the norm in front of it, and its query projection,
    which they do not need.

    Raises:
        UnsupportedModel: the layer has none of these under a name that is known; queries, keys and values come from one
            linear.
    """
    attention, norm = _first(layer, ATTENTIONS), _first(layer, ("input_layernorm",))
    queries = _first(attention, QUERIES) if attention is not None else None
    if attention is None or norm is None or not isinstance(getattr(queries, "out_features", None), int):
        raise UnsupportedModel(
            f"Decoder layer {index} ({type(layer).__name__}) has no attention with a query projection of its own, and "
            "a norm in front of it, under names that lookaway knows, so its visual tokens cannot be frozen. Known: "
            f"{', '.join(ATTENTIONS)}; {', '.join(QUERIES)}; input_layernorm."
        )
    assert queries is not None
    return attention, norm, queries


@torch.no_grad()
def norm_gain(norm: nn.Module) -> Tensor:
    """The gain g [D] of an RMS norm, `norm(x) = g * x / rms(x)`.

    Raises:
        UnsupportedModel: it is another norm (LayerNorm shifts too), or its gain is not its weight.
    """
    weight = getattr(norm, "weight", None)
    if isinstance(weight, Tensor) and getattr(norm, "bias", None) is None and not isinstance(norm, nn.LayerNorm):
        found = type(norm).forward(norm, torch.ones_like(weight)[None, None])[0, 0]  # rms(ones) is 1
        for gain in (weight, 1 + weight):
            if torch.allclose(found.float(), gain.detach().float(), rtol=2e-2, atol=1e-3):
                return gain.detach()
    raise UnsupportedModel(
        f"{type(norm).__name__} is no plain RMS norm, so its gain cannot be taken apart from it. Use adapters that "
        "read what the FFN reads (reads: ffn)."
    )


def _first(owner: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    return next((part for name in names if isinstance(part := getattr(owner, name, None), nn.Module)), None)
