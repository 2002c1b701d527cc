"""Two prefills of one batch put together: some rows of the first are replaced by those of a second. Pure functions.

Rows may keep different numbers of columns, so a rectangle may get wider or narrower; its last slots stay last (its
first ones first, where rows are padded on the right).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cache.kept import Kept
from .history import Change, PrefillHistory
from .state import PrefillState

__all__ = ["JoinedColumns", "joined_columns", "joined_rows", "joined_state"]


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


@dataclass(frozen=True, eq=False)
class JoinedColumns:
    """The columns of the prompt that each row has once some rows are those of a second prefill; None: all."""

    kept_at: tuple[Kept | None, ...]  # [L]
    kept: Kept | None
    """At the end."""


def joined_columns(first: PrefillState, second: PrefillState, rows: Tensor, start: int) -> JoinedColumns:
    """Which columns each row has. One host read, where some layer lacks columns.

    Args:
        rows: int64 [b], rows of `first` that are those of `second` from now on.
        start: the first layer that ran twice for these rows.
    """
    layers = range(start, first.num_layers)
    pairs = [(first.kept_at[layer], second.kept_at[layer]) for layer in layers] + [(first.kept, second.kept)]
    # Layers of one stretch share their columns, and masks are narrowed once for them.
    distinct = {_key(pair): pair for pair in pairs}
    batch, length = first.initial.visual.shape
    short = {key: pair for key, pair in distinct.items() if pair[0] is not None or _named(pair[1]) < length}
    counted = {}
    if short:
        stays = torch.ones(batch, dtype=torch.bool, device=rows.device)
        stays[rows] = False
        numbers = [_counts(old, new, stays, length) for old, new in short.values()]
        counted = dict(zip(short, torch.stack(numbers).tolist(), strict=True))
    found = {
        key: _columns(first, pair, rows, counted[key]) if key in counted else None for key, pair in distinct.items()
    }
    *kept_at, end = [found[_key(pair)] for pair in pairs]
    return JoinedColumns((*first.kept_at[:start], *kept_at), end)


def _key(pair: tuple[Kept | None, Kept | None]) -> tuple[int, int]:
    return id(pair[0]), id(pair[1])


def _named(new: Kept | None) -> int:
    """Slots of a second pass, which names its columns, being a part of the batch."""
    assert new is not None
    return new.index.shape[1]


def _counts(old: Kept | None, new: Kept | None, stays: Tensor, length: int) -> Tensor:
    """Most and fewest columns of a row that stays, and fewest of one that is replaced, int64 [3]; without any row that
    stays: none, and as many as there are."""
    assert new is not None
    device = new.valid.device
    columns = torch.full((len(stays),), length, device=device) if old is None else old.valid.sum(1).to(device)
    stays = stays.to(device)
    most, fewest = columns.where(stays, 0).max(), columns.where(stays, length).min()
    return torch.stack([most, fewest, new.valid.sum(1).min()])


def _columns(first: PrefillState, pair: tuple[Kept | None, Kept | None], rows: Tensor, counts: list[int]) -> Kept:
    old, new = pair
    assert new is not None
    if old is None:
        columns = torch.arange(first.length, device=new.index.device).expand(len(first.initial.visual), -1)
        old = Kept(columns, torch.ones_like(first.initial.visual), full=True)
    most, fewest, fewest_new = counts
    width = max(most, new.index.shape[1])
    index = joined_rows(old.index, new.index, rows, width, 1, first.pad_right)
    valid = joined_rows(old.valid, new.valid, rows, width, 1, first.pad_right)
    return Kept(index, valid, full=min(fewest, fewest_new) >= width)


def joined_state(
    first: PrefillState, second: PrefillState, rows: Tensor, start: int, columns: JoinedColumns
) -> PrefillState:
    """The state at the end, as if `rows` had only run as in `second`; its history counts both passes.

    Args:
        start: the first layer that ran twice for these rows.
        columns: of `joined_columns`.
    """
    kept = columns.kept
    layout = first.initial if kept is None else first.initial.gather(kept.index, kept.valid)
    history = _history(first.history, second.history, list(columns.kept_at), rows, start)
    return replace(
        first,
        kept=kept,
        kept_at=columns.kept_at,
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
