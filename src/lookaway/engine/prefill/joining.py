"""Two prefills of one batch put together: some rows of the first are replaced by those of a second. Pure functions.

Rows may keep different numbers of columns, so a rectangle may get wider or narrower; its last slots stay last (its
first ones first, where rows are padded on the right).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..cache.kept import Kept
from .history import Change, PrefillHistory
from .state import PrefillState

__all__ = ["joined_columns", "joined_rows", "joined_state"]


def joined_rows(first: Tensor, second: Tensor, rows: Tensor, width: int, dim: int, pad_right: bool) -> Tensor:
    """`first` [B, ...] with its rows `rows` int64 [b] replaced by `second` [b, ...].

    Args:
        width: size of the result along `dim`, the dimension of the slots; what does not fit is padding, or replaced.
        pad_right: slots are counted from the left, else from the right.
    """
    shape = list(first.shape)
    shape[dim] = width
    whole = first.new_zeros(shape)
    for part, where in ((first, None), (second, rows.to(first.device))):
        size = min(part.shape[dim], width)
        taken = part.narrow(dim, 0 if pad_right else part.shape[dim] - size, size)
        place = whole.narrow(dim, 0 if pad_right else width - size, size)
        if where is None:
            place.copy_(taken)
        else:
            whole[where] = 0
            place[where] = taken.to(whole.dtype)
    return whole


def joined_columns(first: PrefillState, second: PrefillState, rows: Tensor, layer: int | None) -> Kept | None:
    """The columns that each row has at `layer` (None: at the end) once `rows` are those of `second`; None: all."""
    old = first.kept if layer is None else first.kept_at[layer]
    new = second.kept if layer is None else second.kept_at[layer]
    assert new is not None  # a second pass names its columns, being a part of the batch
    length = first.length
    if old is None and new.index.shape[1] == length:
        return None
    if old is None:
        columns = torch.arange(length, device=new.index.device).expand(len(first.initial.visual), -1)
        old = Kept(columns, torch.ones_like(first.initial.visual), full=True)
    others = torch.ones(len(old.index), dtype=torch.bool, device=rows.device)
    others[rows] = False
    most = int(old.valid[others.to(old.valid.device)].sum(1).max()) if bool(others.any()) else 0
    width = max(most, new.index.shape[1])
    index = joined_rows(old.index, new.index, rows, width, 1, first.pad_right)
    valid = joined_rows(old.valid, new.valid, rows, width, 1, first.pad_right)
    return Kept(index, valid, full=bool(valid.all()))


def joined_state(first: PrefillState, second: PrefillState, rows: Tensor, start: int) -> PrefillState:
    """The state at the end, as if `rows` had only run as in `second`; its history counts both passes.

    Args:
        start: the first layer that ran twice for these rows.
    """
    known: dict[tuple[int, int], Kept | None] = {}
    kept_at: list[Kept | None] = list(first.kept_at[:start])
    for layer in range(start, first.num_layers):
        key = (id(first.kept_at[layer]), id(second.kept_at[layer]))
        if key not in known:  # layers of one stretch share their columns, and masks are narrowed once for them
            known[key] = joined_columns(first, second, rows, layer)
        kept_at.append(known[key])
    kept = kept_at[-1]
    layout = first.initial if kept is None else first.initial.gather(kept.index, kept.valid)
    history = _history(first.history, second.history, kept_at, rows, start)
    return replace(
        first,
        kept=kept,
        kept_at=tuple(kept_at),
        layout=layout,
        groups=(),
        has_visual_tokens=first.has_visual_tokens or second.has_visual_tokens,
        history=history,
    )


def _history(
    first: PrefillHistory, second: PrefillHistory, kept_at: list[Kept | None], rows: Tensor, start: int
) -> PrefillHistory:
    changes: list[Change] = [first.changes[0]]  # the whole prompt
    layers = sorted({change.layer for change in (*first.changes[1:], *second.changes[1:])})
    for layer in layers:
        old, new = first.at(layer), second.at(layer)
        kept = kept_at[layer]
        visual, tokens = old.visual.clone(), old.tokens.clone()
        visual[rows], tokens[rows] = new.visual, new.tokens
        changes.append(Change(layer, visual, tokens, first.length if kept is None else kept.index.shape[1]))
    again = torch.zeros_like(first.changes[0].tokens)
    again[rows] = 1
    twice = [first.at(layer).tokens * again * (layer >= start) for layer in range(first.num_layers)]
    notes = _notes(first, second, rows, start)
    notes[start] = {**notes.get(start, {}), "second_look": again}
    return replace(first, changes=tuple(changes), decided=len(changes), notes=notes, twice=torch.stack(twice))


def _notes(first: PrefillHistory, second: PrefillHistory, rows: Tensor, start: int) -> dict[int, dict[str, Tensor]]:
    """What was noted a row, by layer and name, each float [B]: from `start` on of the pass that the row ended with.

    NaN where that pass noted nothing of that name: its policy was not asked there.
    """
    joined: dict[int, dict[str, Tensor]] = {k: dict(found) for k, found in first.notes.items() if k < start}
    size = len(first.changes[0].tokens)
    for layer in sorted({*first.notes, *second.notes}):
        if layer < start:
            continue
        old, new = first.notes.get(layer, {}), second.notes.get(layer, {})
        for name in {**old, **new}:
            known = old.get(name, new.get(name))
            assert known is not None
            whole = torch.full((size,), torch.nan, device=known.device)
            if name in old:
                whole = old[name].detach().float().clone()
            whole[rows.to(whole.device)] = new[name].detach().to(whole) if name in new else torch.nan
            joined.setdefault(layer, {})[name] = whole
    return joined
