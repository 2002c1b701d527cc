"""What the reference implementation knows of a prompt and of a KV cache: one bool a column, may it still be seen?

It asks the policy about the rectangle that removal would have left, and shares no code with what it judges
(`prefill/state.py`, `cache/pruned_cache.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core.attention_inputs import AttentionInputs
from ..core.cost import DecoderShape
from ..core.decision import LayerView, Policy
from ..core.errors import DataError, InvalidDecision, UnsupportedModel
from ..core.layout import TokenLayout
from ..core.record import Trace
from ..core.vision_inputs import VisionInputs

__all__ = ["MaskedCacheInfo", "MaskedPrompt"]


@dataclass(frozen=True, eq=False)
class MaskedCacheInfo:
    """Which of the first `length` columns of a cache each layer must not see. All layers hold all columns."""

    gone_at: tuple[Tensor | None, ...]  # [L], each bool [B, length]; None: it sees all
    length: int
    shift: Tensor | None = None  # int64 [B]
    """Places by which later tokens are moved back, where tokens were numbered anew."""

    @property
    def batch(self) -> int:
        return next((len(gone) for gone in self.gone_at if gone is not None), 0)

    @property
    def missing(self) -> int:
        return 0

    def rows(self, rows: Tensor) -> MaskedCacheInfo:
        """The same about other rows int64 [B']."""
        shift = None if self.shift is None else self.shift[rows]
        return replace(self, gone_at=tuple(None if gone is None else gone[rows] for gone in self.gone_at), shift=shift)

    def up_to(self, length: int) -> MaskedCacheInfo:
        """The same about more columns, all of which are seen; or about fewer, where the cache was cropped."""
        more = length - self.length
        if more < 0 and any(gone is not None and bool(gone[:, more:].any()) for gone in self.gone_at):
            raise UnsupportedModel(
                f"The KV cache was cropped into the prompt: from {self.length} columns to {length}, of which some had "
                "left. Run the conversation again."
            )
        padded = [None if gone is None else nn.functional.pad(gone, (0, more)) for gone in self.gone_at]
        return replace(self, gone_at=tuple(padded), length=length)


class MaskedPrompt:
    """A prompt of which some columns may not be seen any more."""

    def __init__(self, layout: TokenLayout, num_layers: int, answers: Tensor | None) -> None:
        if answers is not None and answers.shape != layout.visual.shape:
            raise DataError(
                f"The mask of answers has shape {tuple(answers.shape)}, the tokens {tuple(layout.visual.shape)}."
            )
        self.layout, self.num_layers, self.answers = layout, num_layers, answers
        self.length = layout.visual.shape[1]
        self.left = ~layout.padding  # bool [B, S]
        self.slots = [list(range(self.length)) for _ in layout.visual]
        """The columns of each row's rectangle, in order; a column that is not left only fills up."""
        self.removed = False
        self.pad_right = any(layout.spans) and bool(layout.padding[:, -1].any())
        self.had_images = any(layout.spans)
        self.gone_at: list[Tensor | None] = [None] * num_layers
        self.notes: dict[int, Mapping[str, Tensor]] = {}
        self.changes = [self._counts(0)]
        self.places: list[list[int]] | None = None
        """Columns whose positions each row's columns have, where those that stay were numbered anew one by one."""
        self.grid: list[list[list[int]]] | None = None
        """Time, row and column of each row's columns [B][S][3], where the decoder counts in these; anew once some
        left."""
        self.shift = torch.zeros(len(layout.visual), dtype=torch.int64)
        self.means: Mapping[Any, Tensor] = {}
        """Means that runs of skipped layers share."""

    @property
    def has_visual_tokens(self) -> bool:
        return bool((self.left & self.layout.visual).any())

    @property
    def gone(self) -> Tensor | None:
        """Columns that no later layer sees, padding among them, bool [B, S]; None: nothing was removed."""
        return ~self.left if self.removed else None

    def columns(self) -> tuple[Tensor, Tensor]:
        """The rectangle that removal would have left: `(index [B, K], valid [B, K])`."""
        index = torch.tensor(self.slots, device=self.left.device)
        return index, self.left.gather(1, index)

    def ask(
        self,
        policy: Policy,
        layer: int,
        whole: Tensor,
        seen: AttentionInputs | None,
        vision: VisionInputs | None,
        twig: AttentionInputs | None = None,
    ) -> Tensor:
        """Ask before `layer`, whose rows are `whole` [B, S, D]; the policy sees the rectangle of what is left.

        Returns:
            The rows that the layer runs on: as they were, or with those in them that the policy changed.
        """
        index, real = self.columns()
        hidden = whole
        hidden = torch.stack([row[columns] for row, columns in zip(hidden, index.to(hidden.device), strict=True)])
        answers = torch.zeros_like(self.left) if self.answers is None else self.answers.to(self.left.device)
        visual, hidden_text = self.layout.visual.gather(1, index) & real, answers.gather(1, index) & real
        text = self.layout.text.gather(1, index) & real & ~hidden_text
        layout = TokenLayout(visual, text, ~(visual | text), self.layout.spans).to(hidden.device)
        initial = self.layout.visual.sum(1).to(hidden.device)
        view = LayerView(layer, self.num_layers, layout, hidden, initial, seen, vision, dict(self.notes), twig)
        decision = policy.decide(view)
        if decision.notes:
            self.notes[layer] = decision.notes
        if decision.keep is None:
            return whole
        stays = (decision.keep.to(self.left.device) | hidden_text) & real
        if bool((real & ~visual & ~stays).any()):
            raise InvalidDecision(f"Policy {policy.name or type(policy).__name__} dropped text before layer {layer}.")
        if torch.equal(stays, real):
            return whole
        most = int(stays.sum(1).max())
        for row, keep in enumerate(stays.tolist()):
            first = [c for c, stay in zip(self.slots[row], keep, strict=True) if stay == self.pad_right]
            second = [c for c, stay in zip(self.slots[row], keep, strict=True) if stay != self.pad_right]
            order = first + second  # what only fills up stands behind, or in front
            self.slots[row] = order[:most] if self.pad_right else order[-most:]
        left = torch.zeros_like(self.left)
        for row in range(len(left)):
            left[row, index[row][stays[row]]] = True
        if layer == 0 and policy.renumbers():
            if self.grid is None:
                self._renumber(left)
            else:
                self._place_anew(self.grid, left)
        self.left, self.removed = left, True
        self.changes.append(self._counts(layer))
        if decision.values is None:
            return whole
        whole = whole.clone()
        for row in range(len(left)):
            changed = stays[row] & visual[row]
            whole[row, index[row][changed]] = decision.values[row][changed].to(whole.dtype)
        return whole

    def _renumber(self, left: Tensor) -> None:
        """Count the columns that are left, bool [B, S], as if the others had never been there."""
        self.places = []
        for row, (before, after) in enumerate(zip(self.left.tolist(), left.tolist(), strict=True)):
            numbers = [column for column, real in enumerate(before) if real]
            own = list(range(self.length))
            for place, column in enumerate(column for column, real in enumerate(after) if real):
                own[column] = numbers[place]
            self.places.append(own)
            self.shift[row] = sum(before) - sum(after)

    def _place_anew(self, grid: list[list[list[int]]], left: Tensor) -> None:
        """Write the prompt again without what left, bool [B, S] of what is left: each text token one place behind what
        comes before it, each picture with its own rows and columns behind that, as far as they are left."""
        for row, (real, stays) in enumerate(zip(self.left.tolist(), left.tolist(), strict=True)):
            pieces = self._pieces(row, [column for column, is_real in enumerate(real) if is_real], grid[row])
            if not pieces:
                continue
            place, behind = grid[row][pieces[0][0]][1], max(grid[row][pieces[-1][-1]][1:]) + 1
            for piece in pieces:
                begin = grid[row][piece[0]][1]
                sizes = [max(grid[row][column][1:]) - begin + 1 for column in piece if stays[column]]
                for column in piece:
                    grid[row][column] = [place + coordinate - begin for coordinate in grid[row][column]]
                place += max(sizes, default=0)
            self.shift[row] = behind - place

    def _pieces(self, row: int, columns: list[int], grid: list[list[int]]) -> list[list[int]]:
        """A row's columns as text tokens, each alone, and pictures, whose first column is their smallest corner."""
        visual = self.layout.visual[row].tolist()
        pieces: list[list[int]] = []
        inside, edge = False, 0
        for column in columns:
            pictured = visual[column] or len(set(grid[column])) > 1  # a picture's last column may count as text
            if pictured and inside and min(grid[column][1:]) <= edge:
                pieces[-1].append(column)
                edge = max(edge, *grid[column][1:])
            else:
                pieces.append([column])
                edge = max(grid[column][1:])
            inside = pictured
        return pieces

    def trace(self, shape: DecoderShape) -> Trace:
        """What happened, counted from which columns each layer could see."""
        at = [[change for change in self.changes if change[0] <= layer][-1] for layer in range(self.num_layers)]
        visual = [change[1] for change in at]
        exits: list[int | None] = []
        _, visual_before, tokens_before, length = self.changes[0]
        for row, count in enumerate(visual_before):
            counts = [layer[row] for layer in visual]
            exits.append(counts.index(0) if count and 0 in counts else None)
        notes = {
            layer: {name: torch.as_tensor(value).detach().float().tolist() for name, value in values.items()}
            for layer, values in self.notes.items()
        }
        trace = Trace(shape, exits, visual, [change[2] for change in at], [change[3] for change in at], notes)
        if at[0] is self.changes[0]:
            return trace
        return replace(trace, columns=length, prompt_tokens=tokens_before, prompt_visual_tokens=visual_before)

    def _counts(self, layer: int) -> tuple[int, list[int], list[int], int]:
        visual, real = (self.left & self.layout.visual).sum(1), self.left.sum(1)
        return layer, visual.tolist(), real.tolist(), len(self.slots[0])
