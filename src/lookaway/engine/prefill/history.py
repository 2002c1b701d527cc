"""What happened to one prompt, layer by layer, in a few small tensors: what its trace is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...core.cost import DecoderShape
from ...core.layout import TokenLayout
from ...core.record import Trace

__all__ = ["Change", "PrefillHistory"]


@dataclass(frozen=True, eq=False)
class Change:
    """How many tokens each row has from one layer on."""

    layer: int
    visual: Tensor  # int64 [B]
    tokens: Tensor  # int64 [B], visual and text
    slots: int
    """Width of the rectangle that holds them."""

    @classmethod
    def of(cls, layer: int, layout: TokenLayout) -> Change:
        return cls(layer, layout.visual_counts, layout.counts, layout.visual.shape[1])


@dataclass(frozen=True, eq=False)
class PrefillHistory:
    """The changes of one prompt, the first being its whole length at layer 0."""

    num_layers: int
    had_images: bool
    """Some row had a visual token (known on the host)."""
    changes: tuple[Change, ...]
    decided: int = 1
    """So many of the changes came from the policy; the others are those of the tail."""
    notes: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    twice: Tensor | None = None
    """Tokens int64 [L, B] that a first pass processed for rows that ran again (`joining.py`); None: none did."""
    tail: int | None = None
    """Layer from which on only positions that are still needed run: no attention comes after it."""

    @property
    def length(self) -> int:
        """Columns of the whole prompt, padding included."""
        return self.changes[0].slots

    def at(self, layer: int) -> Change:
        """What `layer` ran on."""
        return [change for change in self.changes if change.layer <= layer][-1]

    def noted(self, layer: int, notes: Mapping[str, Tensor]) -> PrefillHistory:
        """With what the policy noted before `layer`."""
        return replace(self, notes={**self.notes, layer: notes}) if notes else self

    def removed(self, layer: int, layout: TokenLayout) -> PrefillHistory:
        """With a removal that the policy decided; `layout` is of what is left."""
        changes = (*self.changes, Change.of(layer, layout))
        return replace(self, changes=changes, decided=len(changes))

    def cut(self, layer: int, layout: TokenLayout) -> PrefillHistory:
        """With tokens let go behind the last attention; `layout` is of what is left."""
        tail = layer if self.tail is None else self.tail
        return replace(self, changes=(*self.changes, Change.of(layer, layout)), tail=tail)

    def trace(self, shape: DecoderShape) -> Trace:
        """What happened, as plain numbers."""
        changes = [(c.layer, c.visual.tolist(), c.tokens.tolist(), c.slots) for c in self.changes]
        at = [[c for c in changes if c[0] <= layer][-1] for layer in range(self.num_layers)]
        decided = [[c for c in changes[: self.decided] if c[0] <= layer][-1] for layer in range(self.num_layers)]
        _, visual, tokens, length = changes[0]
        exits = [_exit_layer(count, [c[1][row] for c in decided]) for row, count in enumerate(visual)]
        # What left before the decoder is in no layer's numbers.
        whole = {"columns": length, "prompt_tokens": tokens, "prompt_visual_tokens": visual}
        before: dict[str, Any] = whole if any(c[0] == 0 for c in changes[1:]) else {}
        notes = {
            layer: {name: torch.as_tensor(value).detach().float().tolist() for name, value in values.items()}
            for layer, values in self.notes.items()
        }
        twice = [] if self.twice is None else self.twice.tolist()
        return Trace(
            shape, exits, [c[1] for c in at], [c[2] for c in at], [c[3] for c in at], notes, tail=self.tail,
            first_pass_tokens=twice, **before,
        )  # fmt: skip


def _exit_layer(initial: int, visual: list[int]) -> int | None:
    """First layer that saw none of a row's `initial` visual tokens; None for rows that had none or kept some."""
    if initial == 0 or visual[-1] != 0:
        return None
    return visual.index(0)
