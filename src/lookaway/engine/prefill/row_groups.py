"""Rows of one batch that keep different numbers of tokens run in groups of like length, so that short rows do not pay
for long ones.

A decoder layer is called once a group, on the group's own columns; keys and values are put together again, padded,
before they enter the cache, and so are the rows that leave the layer. Decoding afterwards is one batch. The reference
implementation is the same prefill as one rectangle (`Attachment.split = False`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..cache.kept import Kept
from .decoder_call import LayerCall

__all__ = ["CALL", "CannotSplit", "Group", "GroupRun", "make_groups", "partition"]

CALL = {"cpu": 32, "cuda": 256}
"""Tokens that one more call of a layer costs, its weights being read again (benchmarks/mixed_batch.py)."""


class CannotSplit(Exception):
    """A layer asks something of its cache that has no answer for a part of the batch."""


@dataclass(frozen=True, eq=False)
class Group:
    """Some rows of a batch that run together."""

    rows: Tensor  # int64 [b]
    slots: slice
    """Their columns of the rectangle [B, K]: the last ones, or the first where rows are padded on the right."""
    kept: Kept
    """What these columns are, for `LayerCall.narrowed`."""

    def of(self, hidden: Tensor) -> Tensor:
        """The group's part of [B, K, ...]: [b, k, ...]."""
        return hidden[self.rows.to(hidden.device), self.slots]


def partition(lengths: Sequence[int], call: int) -> list[list[int]]:
    """Rows in groups of like length, so that their padding and their calls together cost least.

    Args:
        lengths: tokens of each row.
        call: tokens that one call costs.

    Returns:
        Groups of row numbers, the shortest rows first; of one row each at most, all rows in one at least.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    best: list[tuple[int, int]] = [(0, 0)]  # cost of the first n rows of that order, where their last group begins
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        best.append(min((best[start][0] + (end - start) * longest + call, start) for start in range(end)))
    groups: list[list[int]] = []
    end = len(order)
    while end:
        start = best[end][1]
        groups.insert(0, sorted(order[start:end]))
        end = start
    return groups


def make_groups(kept: Kept, lengths: Sequence[int], pad_right: bool) -> list[Group]:
    """Groups of a rectangle of kept columns whose rows have `lengths` valid slots; one group where splitting gains
    nothing."""
    width = kept.index.shape[1]
    groups = []
    for rows in partition(lengths, CALL.get(kept.index.device.type, CALL["cuda"])):
        most = max(lengths[row] for row in rows)
        slots = slice(0, most) if pad_right else slice(width - most, width)
        index = torch.tensor(rows, device=kept.index.device)
        groups.append(Group(index, slots, kept.part(index, slots, min(lengths[row] for row in rows) == most)))
    return groups


class GroupRun:
    """One layer's run in groups: outputs, keys and values, put together again at the end."""

    def __init__(self, groups: Sequence[Group], call: LayerCall) -> None:
        self.groups, self.call = groups, call
        self.outputs: list[Tensor] = []
        self.stored: list[tuple[Tensor, Tensor]] = []
        self.place: Any = None
        self.more: Any = ((), {})

    @classmethod
    def start(cls, layer: Callable[..., Any], groups: Sequence[Group], call: LayerCall) -> tuple[GroupRun, Any]:
        """Run all groups but the last.

        Args:
            layer: the decoder layer's forward.
            call: of the whole batch, narrowed.

        Returns:
            The run, and the (args, kwargs) with which the last group is still to run.

        Raises:
            CannotSplit: the layer returns something else than rows, or reads more of its cache than it adds.
        """
        run = cls(groups, call)
        for group in groups[:-1]:
            args, kwargs = run._arguments(group)
            run._add(layer(*args, **kwargs))
        return run, run._arguments(groups[-1])

    def finish(self, output: Any) -> Tensor:
        """Rows leaving the layer, [B, K, D], of the last group's `output` and those before; the cache gets keys and
        values of all groups in one update."""
        self._add(output)
        if self.stored:
            keys, values = (self._padded([pair[i] for pair in self.stored], 2) for i in (0, 1))
            args, kwargs = self.more
            self.call.cache.update(keys, values, self.place, *args, **kwargs)
        return self._padded(self.outputs, 1)

    def _arguments(self, group: Group) -> tuple[tuple[Any, ...], dict[str, Any]]:
        columns = self.call.columns
        assert columns is not None
        own = self.call.with_rows(group.of(self.call.hidden)).narrowed(group.kept, None, 0, columns.length)
        args, kwargs = own.arguments()
        if self.call.cache is not None:
            kwargs = {**kwargs, "past_key_values": _GroupCache(self)}
        return args, kwargs

    def _add(self, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise CannotSplit(f"the layer returns {type(output).__name__}")
        self.outputs.append(output)

    def _padded(self, parts: Sequence[Tensor], columns: int) -> Tensor:
        """Parts of the groups in one tensor; `columns` is the dimension of the slots."""
        shape = list(parts[0].shape)
        shape[0], shape[columns] = self.call.hidden.shape[:2]
        whole = parts[0].new_zeros(shape)
        for group, part in zip(self.groups, parts, strict=True):
            whole.narrow(columns, group.slots.start, part.shape[columns])[group.rows.to(part.device)] = part
        return whole


class _GroupCache:
    """Takes a group's keys and values in a prefill, and refuses all else."""

    def __init__(self, run: GroupRun) -> None:
        self._run = run

    def update(self, keys: Tensor, values: Tensor, layer: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self._run.stored.append((keys, values))
        self._run.place, self._run.more = layer, (args, kwargs)
        return keys, values

    def __getattr__(self, name: str) -> Any:
        raise CannotSplit(f"the layer reads {name!r} of its cache")
