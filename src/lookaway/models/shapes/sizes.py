"""The sizes of published models, and smaller ones in the same ratios.

The sizes are those of each model's config.json on the hub, and so are the numbers of parameters, which the hub shows
for a checkpoint. Both were written down from knowledge of these pages, without fetching them; that they agree to the
last parameter (tests/models/test_shapes.py builds each shape without memory) is the evidence that they are right. Of
llava-1.5-13b we know the count of the unpadded vocabulary (13,350,839,296), to which 2 x 64 x 5120 were added.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...core.errors import SettingsError

__all__ = ["Decoder", "Tower", "check_scale"]


@dataclass(frozen=True)
class Decoder:
    """Sizes of a Llama-like decoder."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int

    @property
    def hidden(self) -> int:
        """Width of the states; in all shapes here the heads fill it."""
        return self.heads * self.head_dim

    def scaled(self, scale: float) -> Decoder:
        """Fewer layers and narrower, both by `scale`: the head's width, the queries a key head and the FFN's width as
        a multiple of the hidden size stay. At least 4 layers, one key head and 1,024 words."""
        if scale == 1:
            return self
        kv_heads = max(1, round(scale * self.kv_heads))
        heads = kv_heads * (self.heads // self.kv_heads)
        return Decoder(
            layers=max(4, round(scale * self.layers)), heads=heads, kv_heads=kv_heads, head_dim=self.head_dim,
            ffn=round(self.ffn * heads / self.heads), vocabulary=max(1024, round(scale * self.vocabulary)),
        )  # fmt: skip


@dataclass(frozen=True)
class Tower:
    """Sizes of a vision tower."""

    layers: int
    heads: int
    hidden: int
    ffn: int

    def scaled(self, scale: float) -> Tower:
        """As of the decoder: head width and ratios stay, and what decides the number of visual tokens is no part of
        this. At least 4 layers and one head."""
        if scale == 1:
            return self
        heads = max(1, round(scale * self.heads))
        return replace(
            self, layers=max(4, round(scale * self.layers)), heads=heads, hidden=self.hidden // self.heads * heads,
            ffn=round(self.ffn * heads / self.heads),
        )  # fmt: skip


def check_scale(scale: float) -> None:
    """Raise SettingsError where a scale is out of range."""
    if not 0 < scale <= 1:
        raise SettingsError(f"--scale must be above 0 and at most 1 (the published shape), not {scale}.")
