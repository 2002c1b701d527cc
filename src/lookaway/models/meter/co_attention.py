"""The two-stream co-attention layer: self-attention, cross-attention and FFN, each followed by its norm (post-LN).

The layer of METER (Dou et al., *An Empirical Study of Training End-to-End Vision-and-Language Transformers*, arXiv
2111.02387), after BERT's. Modules carry the published names, so that checkpoints need no translation inside a layer.

Why an adapter in an attention's place cannot be merged into the FFN here: its output passes the attention's own norm,
`norm(h + adapter(h))`, before anything else reads it. The division by the token's own deviation stands between the
adapter and every linear map that could take it up. In a pre-norm layer (LLaMA, ViLT) nothing does.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["CoAttention", "CoAttentionLayer"]


class _Heads(nn.Module):
    """Query, key, value and the weighted sum."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part, x in ((self.query, hidden), (self.key, context), (self.value, context))
        )
        out = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )
        return out.transpose(1, 2).flatten(2)


class _AddNorm(nn.Module):
    """A linear map, then residual and norm."""

    def __init__(self, in_features: int, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def joined(self, update: Tensor, hidden: Tensor) -> Tensor:
        return self.LayerNorm(hidden + self.dropout(update))


class CoAttention(nn.Module):
    """One attention sub-layer with its residual and its norm: a site of attention skipping."""

    replacement: nn.Module | None
    """Called as `replacement(hidden, context)` instead of the attention where it is set; its answer [B, S, D] is what
    the residual and the norm get."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.self = _Heads(config)
        self.output = _AddNorm(config.hidden_size, config)
        self.replacement = None

    def forward(self, hidden: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """hidden [B, S, D] reads context [B, T, D] where mask, bool [B, 1, 1, T], is true: [B, S, D]."""
        if self.replacement is not None:
            return self.output.joined(self.replacement(hidden, context), hidden)
        return self.output.joined(self.output.dense(self.self(hidden, context, mask)), hidden)


class CoAttentionLayer(nn.Module):
    """One layer of one stream."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.attention = CoAttention(config)
        self.crossattention = CoAttention(config)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.intermediate_size)})
        self.output = _AddNorm(config.intermediate_size, config)

    def forward(
        self, hidden: Tensor, other: Tensor, mask: Tensor | None = None, other_mask: Tensor | None = None
    ) -> Tensor:
        """hidden: this stream [B, S, D]; other: the other [B, T, D]; masks bool [B, 1, 1, S] and [B, 1, 1, T]."""
        hidden = self.attention(hidden, hidden, mask)
        hidden = self.crossattention(hidden, other, other_mask)
        update = self.output.dense(nn.functional.gelu(self.intermediate["dense"](hidden)))
        return self.output.joined(update, hidden)
