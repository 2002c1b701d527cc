"""A packed batch through the decoder, layer by layer, so that visual tokens can leave before any of them.

Removal here is the same operation as the engine's: the columns are cut from hidden states, mask and rotary tables, all
original positions stay. (The engine attaches to whole models; packed sequences and a taped run are the recipe's.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .packing import PREFIX, Pack

__all__ = ["embed", "logits_at", "run_layers"]

Rotary = tuple[Tensor, Tensor]


def core(language: Any) -> Any:
    """The LlamaForCausalLM inside, with or without peft around it."""
    return language.base_model.model if hasattr(language, "peft_config") else language


def embed(language: Any, visual: Tensor, pack: Pack) -> Tensor:  # [B, 196, D] -> [B, S, D]
    """Embeddings of all columns; of `visual` the patches that the pack names."""
    table = core(language).model.embed_tokens
    chosen = visual.gather(1, pack.visual[..., None].expand(-1, -1, visual.shape[-1]))
    prefix = table(pack.prefix)[None].expand(len(chosen), -1, -1)
    return torch.cat([prefix, chosen, table(pack.text)], dim=1)


def without_visual(pack: Pack, hidden: Tensor, mask: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Rotary]:
    """Cut the visual columns out of everything."""
    visual = pack.visual.shape[1]
    keep = torch.cat([torch.arange(PREFIX), torch.arange(PREFIX + visual, PREFIX + visual + pack.text.shape[1])])
    keep = keep.to(hidden.device)
    cos, sin = rotary
    return hidden[:, keep], mask[:, :, keep][..., keep], (cos[:, keep], sin[:, keep])


def run_layers(
    language: Any,
    hidden: Tensor,
    pack: Pack,
    exit_at: int | None = None,
    first: int = 0,
    tape: list[Tensor] | None = None,
) -> Tensor:  # [B, 1 + T, D] or [B, S, D]
    """Layers `first` to the last; the visual tokens leave before layer `exit_at` (None: never).

    `tape`, where given, gets the input of every layer.
    """
    model = core(language).model
    mask, rotary = pack.mask.to(hidden.dtype), model.rotary_emb(hidden, position_ids=pack.positions)
    for index, layer in enumerate(model.layers):
        if index < first:
            continue
        if index == exit_at:
            hidden, mask, rotary = without_visual(pack, hidden, mask, rotary)
        if tape is not None:
            tape.append(hidden)
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    return hidden


def logits_at(language: Any, hidden: Tensor, pack: Pack) -> Tensor:  # [N, vocabulary]
    """Logits of the rows that predict; other rows never meet the vocabulary."""
    offset = hidden.shape[1] - pack.text.shape[1]
    rows = hidden[pack.rows[:, 0], pack.rows[:, 1] + offset]
    inner = core(language)
    return inner.lm_head(inner.model.norm(rows))
