"""What one decoder layer is called with, narrowed to the columns that are left.

The only file that knows the keyword names of decoder layers. transformers builds masks and rotary embeddings once a
forward, at full length, and hands the same objects to all layers; from the layer of the first removal on, each layer
gets the rows and columns of them that it needs. A mask is never cut to fit: a length that is not the expected one is an
error. Sliding windows are decided by the original columns: what the mask says of a column stays true of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...core.errors import UnsupportedModel
from ..cache.kept import Kept, key_columns, window_of

__all__ = ["Columns", "LayerCall", "gather_rows"]


@dataclass(frozen=True)
class Columns:
    """What a narrowed call is about: what is left of `length` new columns, behind a cache that stands for `before`."""

    new: Kept | None
    """The new columns that are left; None: all."""
    past: Kept | None
    """The columns that this layer's cache holds; None: all."""
    before: int
    length: int
    known: Kept | None = None
    """Columns of all keys, cache and new ones, where somebody knows them already."""

    def keys(self) -> tuple[Tensor, Tensor]:
        """Columns that the layer's keys stand for: `(index int64 [B, N], valid bool [B, N])`."""
        if self.known is not None:
            return self.known.index, self.known.valid
        return key_columns(self.new, self.past, self.before, self.length)


@dataclass(frozen=True)
class LayerCall:
    """One call of one decoder layer, as a value: its arguments at full length, its rows, and what they stand for."""

    layer: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    attention: str
    """Name of the attention implementation."""
    memo: dict[Any, tuple[Any, ...]]
    """What was narrowed already in this forward: layers of one kind share their masks and rotary embeddings."""
    by_row: tuple[str, ...] = ()
    """Further arguments with an entry a row (`Anatomy.row_arguments`)."""
    columns: Columns | None = None
    """What mask, positions and rotary embeddings are narrowed to; None: they stay as they are."""

    @property
    def hidden(self) -> Tensor:  # [B, S, D]
        return self.args[0] if self.args else self.kwargs["hidden_states"]

    @property
    def cache(self) -> Any:
        return self.kwargs.get("past_key_values")

    @property
    def mark(self) -> Any:
        """An object that all calls of one forward share for layers of one kind, and no other forward."""
        return self.kwargs.get("position_embeddings")

    def of_layer(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LayerCall:
        """The call of another layer of the same forward, at full length."""
        return replace(self, layer=layer, args=args, kwargs=kwargs, columns=None)

    def with_rows(self, hidden: Tensor) -> LayerCall:
        """The call with other hidden rows, [B, K, D]."""
        if self.args:
            return replace(self, args=(hidden, *self.args[1:]))
        return self.with_keywords(hidden_states=hidden)

    def with_keywords(self, **kwargs: Any) -> LayerCall:
        """The call with other keyword arguments."""
        return replace(self, kwargs={**self.kwargs, **kwargs})

    def narrowed(self, new: Kept | None, past: Kept | None, before: int, length: int) -> LayerCall:
        """The call narrowed to `Columns`; its rows must be those of `new` already."""
        return self.about(Columns(new, past, before, length))

    def about(self, columns: Columns) -> LayerCall:
        """The same."""
        return replace(self, columns=columns)

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) for the layer, as a forward pre-hook returns them.

        Raises:
            UnsupportedModel: mask or rotary embeddings are of a form that cannot be narrowed.
        """
        return self.args, self.kwargs if self.columns is None else {**self.kwargs, **self.narrowing()}

    def narrowing(self) -> dict[str, Any]:
        """Keyword arguments that are others where `columns` are set, and none where they are not; same errors."""
        if self.columns is None:
            return {}
        new, past = self.columns.new, self.columns.past
        mask, cos_sin = self.kwargs.get("attention_mask"), self.kwargs.get("position_embeddings")
        key = (id(new), id(past), id(mask), id(cos_sin))
        if key not in self.memo:  # layers share masks and rotary embeddings, so what was narrowed once serves them all
            changed = {"attention_mask": self._mask(self.columns), **self._places(new)}
            self.memo[key] = (changed, (new, past, mask, cos_sin))  # held, so that their ids are not used again
        return {**self.memo[key][0], **self._rows(new)}

    def row_arguments(self) -> dict[str, Tensor]:
        """Arguments with an entry a row, [B, ...], those that this call has."""
        return {name: value for name in self.by_row if (value := self.kwargs.get(name)) is not None}

    def _rows(self, new: Kept | None) -> dict[str, Any]:
        """The same of the rows that are run, where they are a part of the batch."""
        if new is None or new.batch is None:
            return {}
        return {name: _of_rows(value, new) for name, value in self.row_arguments().items()}

    def at_slots(self, index: Tensor) -> LayerCall:
        """The call of some slots alone, `index` int64 [B, T] of those that it is about now; the keys stay those of all.
        Calls with the same slots take the same tensor `index`: what is narrowed once serves all."""
        args, kwargs = self.arguments()
        mask, cos_sin, positions = (kwargs.get(n) for n in ("attention_mask", "position_embeddings", "position_ids"))
        key = ("slots", id(index), id(mask), id(cos_sin))
        if key not in self.memo:
            slots = Kept(index, torch.ones_like(index, dtype=torch.bool), True)
            places = replace(self, kwargs=kwargs)._places(slots)
            if positions is None:
                places["position_ids"] = None
            self.memo[key] = ({"attention_mask": self._queries(mask, index), **places}, (index, mask, cos_sin))
        call = replace(self, args=args, kwargs={**kwargs, **self.memo[key][0]}, columns=None)
        return call.with_rows(gather_rows(call.hidden, index))

    def last_slot(self, keys: int | None) -> LayerCall:
        """The call of the last slot alone.

        Args:
            keys: so many of the last columns its mask has, those of the cache and its own; None: as many as there are.

        Raises:
            UnsupportedModel: mask or rotary embeddings are of a form that cannot be cut.
        """
        args, kwargs = self.arguments()
        changed: dict[str, Any] = {}
        mask, cos_sin = kwargs.get("attention_mask"), kwargs.get("position_embeddings")
        if isinstance(mask, Tensor) and mask.dim() == 4:
            changed["attention_mask"] = mask[:, :, -1:, 0 if keys is None else -keys :]
        elif mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
            raise self._no_such_mask(mask)
        if isinstance(cos_sin, tuple):
            changed["position_embeddings"] = tuple(part[..., -1:, :] for part in cos_sin)
        elif cos_sin is not None:
            raise self._no_such_phases(cos_sin)
        if (positions := kwargs.get("position_ids")) is not None:
            changed["position_ids"] = positions[..., -1:]
        call = replace(self, args=args, kwargs={**kwargs, **changed}, columns=None)
        return call.with_rows(call.hidden[:, -1:])

    def _queries(self, mask: Any, index: Tensor) -> Tensor:
        """The rows of a mask that belong to the slots `index` int64 [B, T]: [B, 1 or H, T, keys]."""
        if mask is None:  # plain causal, and the keys are the slots
            slots = torch.arange(self.hidden.shape[1], device=index.device)
            return slots <= index[:, None, :, None]
        if not isinstance(mask, Tensor) or mask.dim() != 4:
            raise self._no_such_mask(mask)
        rows = index.to(mask.device)[:, None, :, None]
        mask = mask.expand(len(index), -1, -1, -1)
        return mask.gather(2, rows.expand(-1, mask.shape[1], -1, mask.shape[3]))

    def _places(self, new: Kept | None) -> dict[str, Any]:
        """Rotary embeddings and position ids of the kept columns."""
        if new is None:
            return {}
        cos_sin = self.kwargs.get("position_embeddings")
        if not isinstance(cos_sin, tuple):
            raise self._no_such_phases(cos_sin)
        positions = self.kwargs.get("position_ids")
        # Flash attention takes jumps in position_ids for packed sequences; rotary embeddings are what counts here.
        flash = "flash" in self.attention
        return {
            "position_embeddings": tuple(_phases(part, new) for part in cos_sin),
            "position_ids": None if positions is None or flash else _last_dimension(positions, new),
        }

    # masks -----------------------------------------------------------------------------------------------------------

    def narrowed_mask(self) -> Tensor | None:
        """The mask of the kept columns alone, where `columns` are set; else the mask as it is."""
        return self.kwargs.get("attention_mask") if self.columns is None else self._mask(self.columns)

    def _mask(self, columns: Columns) -> Tensor | None:
        new, past, before, length = columns.new, columns.past, columns.before, columns.length
        mask = self.kwargs.get("attention_mask")
        some = new or past
        assert some is not None
        if mask is None:
            full = (new is None or new.full) and (past is None or past.full)
            return None if full else self._own_mask(columns)
        if not isinstance(mask, Tensor) or mask.dim() not in (2, 4):
            raise self._no_such_mask(mask)
        index, valid = columns.keys()
        total, window = before + length, window_of(self.cache, self.layer)
        if window is not None:
            # transformers' mask starts where the window of the first new token does; the cache holds the last stored.
            first = max(total - length - window + 1, 0)
            held = window - 1 + (length if new is None else new.index.shape[1])
            index, valid, total = index[:, -held:] - first, valid[:, -held:], total - first
            index, valid = index.clamp(min=0), valid & (index >= 0)
        self._check_length(mask.shape[-1], total)
        mask = _of_rows(mask, some)
        if mask.dim() == 2:
            return mask.gather(1, index.to(mask.device)) & valid.to(mask.device)
        self._check_length(mask.shape[2], length)
        mask = mask.expand(len(index), -1, -1, -1)
        if new is not None:
            rows = new.index.to(mask.device)
            mask = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
        mask = _columns(mask, index)
        if window is None and (new is None or new.full) and (past is None or past.full):
            return mask
        return _without(mask, ~valid.to(mask.device), new is not None)

    def _own_mask(self, columns: Columns) -> Tensor:
        """A causal mask where transformers gave none although some slots now only pad."""
        new, (index, valid) = columns.new, columns.keys()
        if "flash" in self.attention:
            return valid
        if self.attention != "sdpa":
            raise UnsupportedModel(
                f"transformers built no mask for attention {self.attention!r}, and rows of this batch keep different "
                "numbers of tokens. Load the model with attn_implementation='sdpa' or 'eager'."
            )
        queries = columns.length if new is None else new.index.shape[1]
        if new is None and queries == 1:
            return valid[:, None, None]  # it sees all that is there
        slots = torch.arange(index.shape[1], device=index.device)
        causal = (slots <= slots[-queries:, None]).expand(len(index), 1, -1, -1)  # [B, 1, queries, keys]
        return _without(causal, ~valid, new is not None)

    def _check_length(self, found: int, expected: int) -> None:
        if found != expected:
            raise UnsupportedModel(
                f"Decoder layer {self.layer} got an attention mask over {found} positions where {expected} were "
                "expected; lookaway does not cut masks to fit. Chunked caches are not supported together "
                "with removal: use the default dynamic cache."
            )

    def _no_such_phases(self, cos_sin: Any) -> UnsupportedModel:
        return UnsupportedModel(
            f"Decoder layer {self.layer} gets rotary embeddings as {type(cos_sin).__name__}, not as (cos, sin). "
            "Removal and drafting on such a decoder are not supported yet."
        )

    def _no_such_mask(self, mask: Any) -> UnsupportedModel:
        form = f"shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        return UnsupportedModel(
            f"Attention {self.attention!r} masks with {form}, which cannot be narrowed to the kept tokens. "
            "Load the model with attn_implementation='sdpa' or 'eager'."
        )


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows `index` int64 [B, K] of `values` [B or 1, S, D]: [B, K, D]."""
    index = index.to(values.device)
    if len(index) == 1:
        return values.index_select(1, index[0])
    values = values.expand(len(index), -1, -1)
    return values[torch.arange(len(index), device=index.device)[:, None], index]


def _phases(part: Tensor, kept: Kept) -> Tensor:
    """Cosines or sines [B or 1, S, d] of the kept columns; [3, B or 1, S, d] where a decoder mixes its three kinds of
    positions in the attention itself (Qwen2-VL before transformers 5.17)."""
    if part.dim() == 4:
        return torch.stack([_phases(one, kept) for one in part])
    return gather_rows(_of_rows(part, kept), kept.positions_of)


def _of_rows(values: Tensor, kept: Kept) -> Tensor:
    """The rows of `values` [B or 1, ...] that `kept` is about."""
    if kept.batch is None or len(values) == 1:
        return values
    return values[kept.batch.to(values.device)]


def _last_dimension(positions: Tensor, kept: Kept) -> Tensor:
    """position_ids [..., B or 1, S] -> [..., B, K]."""
    index = kept.positions_of.to(positions.device)
    lead = positions.shape[:-2]
    if kept.batch is not None and positions.shape[-2] > 1:
        positions = positions.index_select(-2, kept.batch.to(positions.device))
    return positions.expand(*lead, len(index), -1).gather(-1, index.expand(*lead, -1, -1))


def _columns(mask: Tensor, columns: Tensor) -> Tensor:
    """Columns int64 [B, N] of a mask [B, H, Q, S]."""
    columns = columns.to(mask.device)
    return mask.gather(3, columns[:, None, None, :].expand(-1, mask.shape[1], mask.shape[2], -1))


def _without(mask: Tensor, padding: Tensor, queries_pad: bool) -> Tensor:
    """The mask [B, H, Q, N] with the keys `padding` bool [B, N] closed; queries that pad see themselves: no NaN."""
    closed = padding[:, None, None, :]
    boolean = mask.dtype == torch.bool
    mask = mask & ~closed if boolean else mask.masked_fill(closed, torch.finfo(mask.dtype).min)
    if not queries_pad:
        return mask
    count, total = mask.shape[2], mask.shape[3]
    itself = torch.zeros_like(padding)[:, None, :].expand(-1, count, -1).clone()  # [B, Q, N]
    itself[:, :, total - count :] = torch.diag_embed(padding[:, total - count :])
    return mask | itself[:, None] if boolean else mask.masked_fill(itself[:, None], 0.0)
