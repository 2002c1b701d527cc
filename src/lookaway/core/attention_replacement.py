"""What may stand in for an attention that is skipped. Engine and adapters meet only here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

__all__ = ["AttentionReplacement", "pooled_prompt"]


class AttentionReplacement(Protocol):
    """Changes what the FFN of a layer reads where the layer's attention is skipped. Knows no model.

    A layer is `x + attention(norm_a(x))`, then `+ FFN(norm_f(.))`. Without its attention and with a replacement f it is
    `x + FFN(f(norm_f(x), c))`, or `x + FFN(g_f * f(norm_a(x), c))` where `reads` is 'attention' (g_f: the gain of
    norm_f). The context c is what a token knows of the others: it comes from one pooled vector of the prompt.
    """

    reads: Literal["ffn", "attention"]
    """Whose norm the states go through."""
    pool: Literal["none", "text", "all"]
    """Over what the prompt is pooled: nothing, its text, or all that is left of it. Never padding or answers."""
    once: bool
    """Pooled where a run of skipped layers begins, for all layers of the run; else at each layer."""
    without_first: bool
    """The context also takes the mean without the prompt's first position (the router of LaVIN-EAS)."""
    merged: bool
    """The weights of the FFN hold f already; what is left of it are `biases`."""

    def context(self, pooled: Tensor) -> Tensor:
        """What `changed` or `biases` take of the prompt, [B, C], from `pooled_prompt`: [B, D], or [B, 2, D]."""
        ...

    def changed(self, states: Tensor, context: Tensor | None) -> Tensor:
        """f: normed states [B, S, D] -> what the FFN reads, [B, S, D]. `context` is None where `pool` is 'none'."""
        ...

    def biases(self, context: Tensor | None) -> Sequence[Tensor]:
        """Merged only: what is added to the output of each linear that the FFN begins with, [B or 1, width]."""
        ...

    def fold(self, weights: Sequence[Tensor], gain: Tensor | None) -> tuple[list[Tensor], AttentionReplacement]:
        """Merge f into the linears that the FFN begins with.

        Args:
            weights: of these linears, each [width, D].
            gain: g_f [D] where `reads` is 'attention'.

        Returns:
            (the new weights, what is left to stand in).

        Raises:
            SettingsError: f depends on the prompt by more than a bias, so nothing can hold it.
        """
        ...

    def belongs_to(self, weights: Sequence[Tensor]) -> bool:
        """Merged only: these are the weights that it was merged into."""
        ...

    def flops(self, tokens: int) -> int:
        """FLOPs (2 a multiply-add) for `tokens` positions of one row."""
        ...


def pooled_prompt(states: Tensor, mask: Tensor, without_first: bool) -> Tensor:
    """The mean of a prompt's states, in fp32 at least.

    Args:
        states: [B, S, D]; what is not in the mask may hold anything.
        mask: bool [B, S], positions that count.
        without_first: also the mean without each row's first position that counts.

    Returns:
        [B, D], or [B, 2, D] where both means are asked for.
    """
    states = states.to(torch.promote_types(states.dtype, torch.float32))

    def mean(counted: Tensor) -> Tensor:
        total = states.masked_fill(~counted[..., None], 0.0).sum(1)
        return total / counted.sum(1, keepdim=True).clamp(min=1)

    if not without_first:
        return mean(mask)
    return torch.stack([mean(mask), mean(mask & (mask.cumsum(1) > 1))], dim=1)
