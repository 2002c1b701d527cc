"""EVA-02 as Eagle uses it: attention in windows in most blocks, rotary positions in two dimensions, SwiGLU.

Source: Fang et al., *EVA-02: A Visual Representation for Neon Genesis*, arXiv 2303.11331. Parameter names are the
published ones, but for the rotary tables, which are computed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["EvaTower", "rotary_tables"]


def rotary_tables(side: int, head_dim: int, trained_side: int = 16, theta: float = 10000.0) -> tuple[Tensor, Tensor]:
    """cos and sin of a square's places, [side * side, head_dim] each: the first half of a head turns with the row, the
    second with the column. Places are stretched onto the `trained_side` that the model was trained with.
    """
    speeds = theta ** -(torch.arange(0, head_dim // 2, 2).float() / (head_dim // 2))
    places = torch.arange(side).float() / side * trained_side
    angles = torch.outer(places, speeds).repeat_interleave(2, -1)  # [side, head_dim / 2]
    rows, columns = angles[:, None].expand(-1, side, -1), angles[None].expand(side, -1, -1)
    both = torch.cat([rows, columns], -1).flatten(0, 1)
    return both.cos(), both.sin()


def _turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring pairs of entries."""
    even, odd = states[..., ::2], states[..., 1::2]
    return states * cos + torch.stack([-odd, even], -1).flatten(-2) * sin


class EvaAttention(nn.Module):
    """Self-attention over [N, L, D] with rotary tables; keys have no bias."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(hidden_size))
        self.v_bias = nn.Parameter(torch.zeros(hidden_size))
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        queries = _turned(heads(self.q_proj(states) + self.q_bias), cos, sin).to(states.dtype)
        keys = _turned(heads(self.k_proj(states)), cos, sin).to(states.dtype)
        values = heads(self.v_proj(states) + self.v_bias)
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class EvaMlp(nn.Module):
    """SwiGLU with a norm in front of its last matrix."""

    def __init__(self, hidden_size: int, width: int, eps: float) -> None:
        super().__init__()
        self.w1 = nn.Linear(hidden_size, width)
        self.w2 = nn.Linear(hidden_size, width)
        self.ffn_ln = nn.LayerNorm(width, eps=eps)
        self.w3 = nn.Linear(width, hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        return self.w3(self.ffn_ln(F.silu(self.w1(states)) * self.w2(states)))


class EvaBlock(nn.Module):
    """One block on [B, side, side, D]; `window` 0: attention over the whole picture."""

    def __init__(self, hidden_size: int, num_heads: int, width: int, window: int, eps: float) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(hidden_size, eps=eps)
        self.attn = EvaAttention(hidden_size, num_heads)
        self.norm2 = nn.LayerNorm(hidden_size, eps=eps)
        self.mlp = EvaMlp(hidden_size, width, eps)

    def forward(self, states: Tensor) -> Tensor:
        side = states.shape[1]
        size = self.window or side
        head_dim = states.shape[-1] // self.attn.num_heads
        cos, sin = (table.to(states.device) for table in rotary_tables(size, head_dim))
        # [B, n, size, n, size, D] -> [B * n * n, size * size, D]
        windows = self.norm1(states).unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3)
        mixed = self.attn(windows.flatten(3, 4).flatten(0, 2), cos, sin).reshape(windows.shape)
        states = states + mixed.transpose(2, 3).reshape(states.shape)
        return states + self.mlp(self.norm2(states))


class EvaTower(nn.Module):
    """Pictures [B, 3, H, H] -> features [B, D, H / 16, H / 16].

    Args:
        width: of the MLPs.
        window_size: side of the attention windows, in patches.
        global_every: every so many blocks one attends over the whole picture.
        trained_patches: patches of the position embeddings' square, which is stretched onto the picture's.
    """

    def __init__(
        self,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        width: int,
        patch_size: int = 16,
        window_size: int = 16,
        global_every: int = 3,
        trained_patches: int = 196,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, hidden_size, patch_size, patch_size)})
        self.pos_embed = nn.Parameter(torch.zeros(1, trained_patches + 1, hidden_size))
        windows = [0 if (index + 1) % global_every == 0 else window_size for index in range(num_layers)]
        self.blocks = nn.ModuleList(EvaBlock(hidden_size, num_heads, width, window, eps) for window in windows)

    def forward(self, pixels: Tensor) -> Tensor:
        states = self.patch_embed["proj"](pixels)  # [B, D, side, side]
        states = (states + self._positions(states.shape[-1])).permute(0, 2, 3, 1)
        for block in self.blocks:
            states = block(states)
        return states.permute(0, 3, 1, 2)

    def _positions(self, side: int) -> Tensor:
        """[1, D, side, side]; the class token's has no place here."""
        trained = self.pos_embed[:, 1:]
        square = trained.unflatten(1, (round(trained.shape[1] ** 0.5), -1)).permute(0, 3, 1, 2)
        return F.interpolate(square, size=(side, side), mode="bicubic", align_corners=False)
