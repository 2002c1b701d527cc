"""Rows that decode together, whatever their policies left of their prompts; rows join and leave between two steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...engine.cache.row_batch import is_joinable, join_rows
from .policy_switch import PolicySwitch
from .prefill import Row

__all__ = ["DecodeBatch", "batch_key"]


def batch_key(row: Row, switch: PolicySwitch) -> Any:
    """Rows with the same key may decode in one batch.

    A policy that skips attentions is another decoder, and caches other than transformers' plain one are not put
    together: such a row decodes alone.
    """
    plain = is_joinable(row.held.cache, switch.anatomy.num_layers)
    return None if plain and not switch.skips_attention(row.request.policy) else row


class DecodeBatch:
    """Some rows and their common KV cache."""

    def __init__(self, switch: PolicySwitch, alone: bool = False) -> None:
        self._switch, self._alone = switch, alone
        self.rows: list[Row] = []
        self._changed = False

    def add(self, row: Row) -> None:
        """The row decodes from the next step on."""
        self.rows.append(row)
        self._changed = True

    def remove(self, rows: Sequence[Row]) -> None:
        """These rows decode no more."""
        left = [row for row in self.rows if row not in rows]
        self._changed |= len(left) < len(self.rows)
        self.rows = left

    @torch.no_grad()
    def step(self) -> Tensor:
        """One token further.

        Returns:
            The logits of the token behind each row's latest, [B, vocabulary].
        """
        if self._changed and not self._alone:
            _, held = join_rows([row.held for row in self.rows])
            for row, now in zip(self.rows, held, strict=True):
                row.held = now
        self._changed = False
        rows, switch = self.rows, self._switch
        depth = switch.anatomy.num_layers
        first = min(next((i for i, kept in enumerate(row.held.kept) if kept is not None), depth) for row in rows)
        own = rows[0].request.policy if self._alone else None
        switch.use_for_decoding(own if switch.skips_attention(own) else None, first)
        device = switch.model.device
        lengths = torch.tensor([row.held.length for row in rows], device=device)
        width = int(max(row.held.length for row in rows))
        columns = torch.arange(width + 1, device=device)
        out = switch.model(
            input_ids=torch.tensor([[row.tokens[-1]] for row in rows], device=device),
            attention_mask=(columns >= (width - lengths)[:, None]).long(),
            position_ids=torch.stack([row.position for row in rows], -1)[..., None],
            past_key_values=rows[0].held.cache,
            use_cache=True,
            logits_to_keep=1,
            **{name: torch.cat([row.carried[name] for row in rows]) for name in rows[0].carried},
        )
        for row in rows:
            row.held, row.position = row.held.longer(), row.position + 1
        return out.logits[:, -1]
