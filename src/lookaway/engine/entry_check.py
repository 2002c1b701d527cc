"""A dry run that proves, or refutes, removal before the decoder of a model that nobody has written a family for.

The judge knows nothing of how removal is carried out: it takes what the unattached model calls its decoder with, and
calls the decoder again, row by row without padding, on the columns that a row keeps, at the positions that they had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ..anatomy.base import Anatomy
from ..core.decision import Decision, LayerView, Policy
from .entry import EntryAttachment

__all__ = ["KeepSome", "calls_of_decoder", "entry_check", "outputs_of_row", "row_by_hand"]

ROWS, LENGTH = 3, 20
DECODED = 2
"""Tokens behind the prompt."""


class KeepSome(Policy):
    """Before the decoder, each row keeps its first visual tokens, so many as are listed for it."""

    name = "dry-run"

    def __init__(self, counts: list[int]) -> None:
        self.counts = counts

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        return (0,)

    def decide(self, view: LayerView) -> Decision:
        number = view.layout.visual.cumsum(1)  # of each visual token in its row, from 1
        few = number <= torch.tensor(self.counts[: len(number)], device=number.device)[:, None]
        return Decision(keep=~view.layout.visual | few)


def entry_check(model: Any, anatomy: Anatomy) -> str:
    """What is wrong with removal before this model's decoder; '' where nothing is."""
    prompt, new = _probe(anatomy)
    plain = calls_of_decoder(anatomy, prompt, new)
    with EntryAttachment(model, KeepSome([LENGTH] * ROWS)):
        kept = calls_of_decoder(anatomy, prompt, new)
    if not all(torch.equal(a["out"], b["out"]) for a, b in zip(plain, kept, strict=True)):
        return "a policy that keeps everything changes the answer"
    with EntryAttachment(model, KeepSome([3, 0, 1])) as run:
        short = calls_of_decoder(anatomy, prompt, new)
        index, valid = run.kept_columns()
    wrong = effect = size = 0.0
    for row in range(ROWS):
        expected = row_by_hand(anatomy, plain, row, index[row, valid[row]])
        found = outputs_of_row(short, row, valid[row])
        for ours, theirs, full in zip(found, expected, plain, strict=True):
            wrong = max(wrong, float((ours - theirs).abs().max()))
            effect = max(effect, float((full["out"][row, -1] - theirs[-1]).abs().max()))
            size = max(size, float(theirs.abs().max()))
    allowed = min(0.1 * effect, (1e-4 if plain[0]["out"].dtype == torch.float32 else 5e-2) * size)
    if not wrong <= allowed:
        return (
            f"the answer differs from that of the shorter prompt by {wrong:.2g} where {allowed:.2g} would be rounding"
        )
    return ""


def calls_of_decoder(anatomy: Anatomy, prompt: Mapping[str, Tensor], new: Tensor) -> list[dict[str, Any]]:
    """The decoder's keyword arguments, and with them under 'out' its states, of a prompt and of tokens behind it.

    Args:
        prompt: of the model's forward, `attention_mask` [B, S] among it.
        new: int64 [B, N], what `generate` is made to answer.
    """
    calls: list[dict[str, Any]] = []

    def see(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        calls.append({**kwargs, "out": output[0], "cache": output.past_key_values})

    length, steps = prompt["input_ids"].shape[1], new.shape[1]

    def forced(row: int, ids: Tensor) -> list[int]:
        return [int(new[row, min(len(ids) - length, steps - 1)])] if steps else [0]

    model: Any = anatomy.model
    hook = anatomy.language_model.register_forward_hook(see, with_kwargs=True)
    try:  # by generate, which gives positions as each model wants them
        model.generate(
            **prompt, max_new_tokens=steps + 1, eos_token_id=None, do_sample=False, num_beams=1, use_cache=True,
            prefix_allowed_tokens_fn=forced,
        )  # fmt: skip
    finally:
        hook.remove()
    return calls


def outputs_of_row(calls: list[dict[str, Any]], row: int, valid: Tensor) -> list[Tensor]:
    """The states of one row's valid slots, [K, D] or the last of them, then those of each token behind them, [1, D].

    Args:
        calls: made under a policy. valid: bool [K].
    """
    first, *others = (call["out"][row] for call in calls)
    return [first[valid[-len(first) :]], *others]  # some decoders give the last rows alone, where no more is needed


def row_by_hand(
    anatomy: Anatomy, calls: list[dict[str, Any]], row: int, columns: Tensor
) -> list[Tensor]:  # [K, D], then [1, D] a token
    """The decoder's states for one row on some of its columns, at the positions that they had, and behind them.

    Args:
        calls: of the unattached model (`calls_of_decoder`).
        columns: int64 [K], none of them padding.
    """
    first, *others = calls
    rows, length = first["inputs_embeds"].shape[:2]
    cache = DynamicCache(config=anatomy.language_model.config) if type(first["cache"]) is DynamicCache else None
    out = anatomy.language_model(**_cut(first, row, rows, columns), past_key_values=cache, use_cache=True)
    states = [out[0][0]]
    for number, call in enumerate(others):
        positions = call.get("position_ids")
        if positions is None:
            positions = torch.tensor([[length + number]], device=columns.device)
        mine = {name: _of_row(call[name], row, rows) for name in TOKENS & call.keys()}
        mine["attention_mask"] = torch.ones(1, len(columns) + 1 + number, dtype=torch.int64, device=columns.device)
        out = anatomy.language_model(
            **mine, inputs_embeds=call["inputs_embeds"][row : row + 1], position_ids=_of_row(positions, row, rows, -2),
            past_key_values=out.past_key_values, use_cache=True,
        )  # fmt: skip
        states.append(out[0][0])
    return states


TOKENS = frozenset(
    {"per_layer_inputs", "ple_input_ids", "token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids"}
)
"""Arguments [B, S, ...] with an entry a token."""


def _cut(call: dict[str, Any], row: int, rows: int, columns: Tensor) -> dict[str, Any]:
    positions = call.get("position_ids")
    if positions is None:
        positions = torch.arange(call["inputs_embeds"].shape[1], device=columns.device)[None]
    cut: dict[str, Any] = {
        **({"logits_to_keep": call["logits_to_keep"]} if "logits_to_keep" in call else {}),
        "inputs_embeds": call["inputs_embeds"][row : row + 1, columns],
        "position_ids": _of_row(positions, row, rows, -2)[..., columns],
    }
    for name in TOKENS & call.keys():
        if isinstance(call[name], Tensor):
            cut[name] = _of_row(call[name], row, rows)[:, columns]
    mask = call.get("attention_mask")
    # Without any mask, transformers takes positions that jump for several sequences packed into one.
    cut["attention_mask"] = torch.ones(1, len(columns), dtype=torch.int64, device=columns.device)
    if isinstance(mask, Mapping):
        cut["attention_mask"] = {name: _square(part, row, rows, columns) for name, part in mask.items()}
    elif isinstance(mask, Tensor) and mask.dim() == 4:
        cut["attention_mask"] = _square(mask, row, rows, columns)
    for features, marks in (("deepstack_visual_embeds", "visual_pos_masks"), ("deepstack_features", "vision_mask")):
        if call.get(features) is None:
            continue
        visual = call[marks].reshape(*call[marks].shape[:2], -1)[..., 0]
        start = int(visual[:row].sum())
        mine = visual[row].nonzero().flatten()  # columns of this row's visual tokens, in the features' order
        chosen = start + torch.isin(mine, columns).nonzero().flatten()
        cut[marks] = call[marks][row : row + 1, columns]
        if isinstance(call[features], Mapping):
            cut[features] = {layer: part[chosen] for layer, part in call[features].items()}
        else:
            cut[features] = [part[chosen] for part in call[features]]
    return cut


def _square(mask: Any, row: int, rows: int, columns: Tensor) -> Any:
    if mask is None:
        return None
    mine = _of_row(mask, row, rows)
    return mine[:, columns] if mine.dim() == 2 else mine[:, :, columns][..., columns]


def _of_row(values: Any, row: int, rows: int, dim: int = 0) -> Any:
    """One row of [B or 1, ...]."""
    if not isinstance(values, Tensor) or values.shape[dim] != rows:
        return values
    return values.narrow(dim, row, 1)


def _probe(anatomy: Anatomy) -> tuple[dict[str, Tensor], Tensor]:
    """Three rows of different length with placeholders, padded on the left, and tokens behind them."""
    device = next(anatomy.model.parameters()).device
    draw = torch.Generator().manual_seed(0)
    words = torch.randint(3, anatomy.shape.vocab_size, (ROWS, LENGTH), generator=draw)
    new = torch.randint(3, anatomy.shape.vocab_size, (ROWS, DECODED), generator=draw)
    for token in (anatomy.image_token_id, *anatomy.other_visual_ids):
        words[words == token] = 3
        new[new == token] = 3
    mask = torch.ones_like(words)
    words[0, 4:14] = words[1, 6:16] = words[2, 14:17] = anatomy.image_token_id
    mask[1, :4] = mask[2, :12] = 0
    prompt = {"input_ids": words, "attention_mask": mask}
    return {name: value.to(device) for name, value in prompt.items()}, new.to(device)
