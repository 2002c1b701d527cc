"""A tape of one full run, and the decoder's suffixes replayed from it: what every exit would have answered.

Before an exit at layer k the text rows are those of the full run; from k on they see text only. So one full run, with
the text rows entering each layer kept, is enough for all exits: the suffix `layers[k:]` runs on text rows alone. The
suffixes of all exits share their layers, so they run as one batch that grows: the rows that exit at k join at layer k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...anatomy.base import Anatomy
from ...anatomy.find import anatomy_of
from ...core.features import text_features
from ...core.layout import TokenLayout
from ..attached import check_detached
from ..cache.kept import Kept
from ..prefill.decoder_call import LayerCall, gather_rows
from ..prefill.start import prompt_layout
from ..prefill.state import compact

__all__ = ["LayerState", "Tape", "record_layers", "record_tape"]


@dataclass(frozen=True)
class LayerState:
    """What one decoder layer needs beside its hidden rows."""

    mask: Tensor | None  # [B or 1, 1, T, keys]
    cos_sin: tuple[Tensor, ...]  # each [B or 1, T, head_dim], or [3, B or 1, T, head_dim]
    prefix: tuple[Tensor, Tensor] | None = None  # keys and values [1, KV heads, P, head_dim] that all rows see first
    by_row: Mapping[str, Tensor] = field(default_factory=dict)  # each [B, ...]: `Anatomy.row_arguments`


@dataclass(frozen=True)
class Tape:
    """The text rows of one full run, at every layer. T slots a row; slots that are not valid only pad."""

    anatomy: Anatomy
    layout: TokenLayout
    """Layout of the inputs, [B, S]."""
    index: Tensor  # int64 [B, T]
    """Column of the input that each slot stands for."""
    valid: Tensor  # bool [B, T]
    entering: list[Tensor]  # L + 1 times [B, T, D]
    """Rows entering each layer; the last entry leaves the last layer, before the norm."""
    layers: list[LayerState]  # [L]

    def replay(self, layer: int) -> Tensor:
        """Logits at the text rows, had the visual tokens left before `layer`: [B, T, vocabulary]."""
        return self.logits(self.exit_states([layer])[0])

    def exit_states(self, layers: Sequence[int]) -> Tensor:
        """Rows leaving the last layer for the exits before each of `layers` (ascending), by one growing batch.

        Returns:
            [len(layers), B, T, D]; the entry of `num_layers` is the full run's.
        """
        depth, rows = self.anatomy.num_layers, len(self.index)
        if list(layers) != sorted(set(layers)) or layers[0] < self.anatomy.first_prunable_layer or layers[-1] > depth:
            raise ValueError(
                f"Exit layers must ascend within [{self.anatomy.first_prunable_layer}, {depth}], not {list(layers)}."
            )
        batch = self.entering[layers[0]][:0]
        for layer in range(layers[0], depth):
            if layer in layers:
                batch = torch.cat([batch, self.entering[layer]])
            batch = self._call(layer, batch, len(batch) // rows)
        if layers[-1] == depth:
            batch = torch.cat([batch, self.entering[depth]])
        return batch.unflatten(0, (len(layers), rows))

    def exit_logits(self, layers: Sequence[int], positions: Tensor) -> Tensor:
        """Logits at the input columns `positions` int64 [B, A] for each exit: [len(layers), B, A, vocabulary]."""
        slots = self.slots(positions)
        return torch.stack([self.logits(gather_rows(states, slots)) for states in self.exit_states(layers)])

    def full_logits(self, positions: Tensor) -> Tensor:
        """Logits of the full run at the input columns `positions` int64 [B, A]: [B, A, vocabulary]."""
        return self.logits(gather_rows(self.entering[-1], self.slots(positions)))

    def logits(self, states: Tensor) -> Tensor:
        """Norm and language head."""
        return self.anatomy.logits(states)

    def features(self, layers: Sequence[int], prompt: TokenLayout | None = None) -> Tensor:
        """What gates would see before each of `layers`: fp32 [B, len(layers), 2D].

        Args:
            prompt: layout of the inputs with teacher-forced answers marked as padding; None: all text is the prompt.
        """
        question = (prompt or self.layout).question_mask().gather(1, self.index) & self.valid
        layout = TokenLayout(torch.zeros_like(question), question, ~question)
        return torch.stack([text_features(self.entering[layer], layout) for layer in layers], dim=1)

    def slots(self, positions: Tensor) -> Tensor:
        """Slots of the input columns `positions` int64 [B, A]; those columns must be on the tape."""
        columns = torch.full_like(self.layout.visual, -1, dtype=torch.int64)
        slots = torch.arange(self.index.shape[1], device=self.index.device).expand_as(self.index)
        columns.scatter_(1, self.index, torch.where(self.valid, slots, columns.gather(1, self.index)))
        found = columns.gather(1, positions)
        if bool((found < 0).any()):
            raise ValueError("A position that was asked for is no text row of this tape.")
        return found

    def _call(self, layer: int, hidden: Tensor, copies: int) -> Tensor:
        state = self.layers[layer]
        return self.anatomy.layers[layer](
            hidden,
            attention_mask=None if state.mask is None else _copied(state.mask, copies),
            position_embeddings=tuple(_copied(part, copies, rows=-3) for part in state.cos_sin),
            position_ids=None,
            past_key_values=_Prefix(*state.prefix) if state.prefix else None,
            use_cache=bool(state.prefix),
            **{name: torch.cat([value] * copies) for name, value in state.by_row.items()},
        )


def record_tape(model: Any, inputs: Mapping[str, Any]) -> Tape:
    """Run the model once, in full, and keep its text rows.

    Args:
        model: a supported model, or its anatomy; no policy may be attached to it.
        inputs: keyword arguments of its forward.
    """
    anatomy = model if isinstance(model, Anatomy) else anatomy_of(model)
    layout = prompt_layout(anatomy, inputs)
    counts = layout.text.sum(1)
    most, fewest = int(counts.max()), int(counts.min())
    index, valid = compact(layout.text, most, pad_right=bool(layout.padding[:, -1].any()))
    kept = Kept(index, valid, full=most == fewest == index.shape[1])
    memo: dict[Any, Any] = {}

    def narrow(call: LayerCall) -> tuple[Tensor, LayerState]:
        _, kwargs = call.narrowed(kept, None, 0, layout.visual.shape[1]).arguments()
        places = kwargs["attention_mask"], kwargs["position_embeddings"]
        return gather_rows(call.hidden, index), LayerState(*places, by_row=call.row_arguments())

    with record_layers(anatomy, narrow, memo) as (entering, layers):
        anatomy.backbone(**{**inputs, "use_cache": False})
    entering[-1] = gather_rows(entering[-1], index)
    return Tape(anatomy, layout, index, valid, entering, layers)


@contextmanager
def record_layers(
    anatomy: Anatomy, narrow: Callable[[LayerCall], tuple[Tensor, LayerState]], memo: dict[Any, Any]
) -> Iterator[tuple[list[Tensor], list[LayerState]]]:
    """While it is open, what `narrow` takes from each decoder layer's call is recorded; last the rows before the norm.

    Yields:
        (rows entering each layer and, as they are, the norm; the layers' states), filled by the one forward inside.
    """
    anatomy.require_inside("A tape of the layers")
    check_detached(anatomy)
    entering: list[Tensor] = []
    layers: list[LayerState] = []
    attention = anatomy.attention

    def before_layer(index: int) -> Callable[..., None]:
        def record(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            rows, state = narrow(LayerCall(index, args, kwargs, attention, memo, anatomy.row_arguments))
            entering.append(rows)
            layers.append(state)

        return record

    hooks = [
        layer.register_forward_pre_hook(before_layer(index), with_kwargs=True)
        for index, layer in enumerate(anatomy.layers)
    ]
    hooks.append(anatomy.norm.register_forward_pre_hook(lambda module, args: entering.append(args[0])))
    try:
        yield entering, layers
    finally:
        for hook in hooks:
            hook.remove()


class _Prefix:
    """Stands in for a KV cache: keys and values that all rows see first, and that are not stored again."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        rows = len(keys)
        return (
            torch.cat([self.keys.expand(rows, -1, -1, -1), keys], dim=2),
            torch.cat([self.values.expand(rows, -1, -1, -1), values], dim=2),
        )


def _copied(values: Tensor, copies: int, rows: int = 0) -> Tensor:
    """[B, ...] -> [copies * B, ...], B being dimension `rows`; what is the same for all rows stays one row."""
    return values if values.shape[rows] == 1 or copies == 1 else torch.cat([values] * copies, dim=rows)
