"""A packed batch through the decoder, layer by layer, so that visual tokens can leave before any of them.

Removal is the engine's: the same code gathers hidden rows, mask and rotary tables, and all original positions stay.
What is the recipe's own is that nobody decides: many questions share one sequence and one image, the exit layer is
drawn, and the columns that leave are known beforehand, so there is no policy to ask, no decision to check, no cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...engine.cache.kept import Kept
from ...engine.prefill.decoder_call import LayerCall, gather_rows
from .packing import PREFIX, Pack

__all__ = ["embed", "logits_at", "run_layers"]


def core(language: Any) -> Any:
    """The LlamaForCausalLM inside, with or without peft around it."""
    return language.base_model.model if hasattr(language, "peft_config") else language


def embed(language: Any, visual: Tensor, pack: Pack) -> Tensor:  # [B, 196, D] -> [B, S, D]
    """Embeddings of all columns; of `visual` the patches that the pack names."""
    table = core(language).model.embed_tokens
    chosen = visual.gather(1, pack.visual[..., None].expand(-1, -1, visual.shape[-1]))
    prefix = table(pack.prefix)[None].expand(len(chosen), -1, -1)
    return torch.cat([prefix, chosen, table(pack.text)], dim=1)


def without_visual(pack: Pack, device: torch.device) -> Kept:
    """All columns but the visual ones."""
    (rows, visual), text = pack.visual.shape, pack.text.shape[1]
    index = torch.cat([torch.arange(PREFIX), torch.arange(PREFIX + visual, PREFIX + visual + text)]).to(device)
    index = index.expand(rows, -1)
    return Kept(index, torch.ones_like(index, dtype=torch.bool), full=True)


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
    whole = {"attention_mask": mask, "position_embeddings": rotary}
    kept, memo = None, dict[Any, Any]()
    for index, layer in enumerate(model.layers):
        if index < first:
            continue
        if index == exit_at:
            kept = without_visual(pack, hidden.device)
            hidden = gather_rows(hidden, kept.index)
        if tape is not None:
            tape.append(hidden)
        call = LayerCall(index, (hidden,), whole, model.config._attn_implementation, memo)
        args, kwargs = (call if kept is None else call.narrowed(kept, None, 0, mask.shape[-1])).arguments()
        hidden = layer(*args, **kwargs)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    return hidden


def logits_at(language: Any, hidden: Tensor, pack: Pack) -> Tensor:  # [N, vocabulary]
    """Logits of the rows that predict; other rows never meet the vocabulary."""
    offset = hidden.shape[1] - pack.text.shape[1]
    rows = hidden[pack.rows[:, 0], pack.rows[:, 1] + offset]
    inner = core(language)
    return inner.lm_head(inner.model.norm(rows))
