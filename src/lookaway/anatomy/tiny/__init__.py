"""Tiny random models of every family, and inputs for them: tests and docs without downloads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.errors import UnknownAnatomy
from ...core.random_state import seeded
from . import gemma, llava, qwen, recurrent, tiled
from .sizes import BATCH_KINDS, IMAGE, PAD, TEXT, VIDEO, VISION, VOCAB, Recipe

__all__ = [
    "BATCH_KINDS",
    "IMAGE",
    "PAD",
    "TEXT",
    "TINY",
    "TINY_BEFORE",
    "VIDEO",
    "VISION",
    "VOCAB",
    "TinyModel",
    "tiny",
]

TINY: dict[str, Recipe] = {**llava.TINY, **qwen.TINY, **tiled.TINY, **gemma.TINY}
"""Name -> recipe; the name is the family's unless the recipe says otherwise. A new family is one row of one file."""

TINY_BEFORE: dict[str, Recipe] = {**qwen.TINY_BEFORE, **recurrent.TINY_BEFORE}
"""The same for families that visual tokens may leave before the decoder only."""
_RECIPES = {**TINY, **TINY_BEFORE}


@dataclass(frozen=True)
class TinyModel:
    """A tiny random model, fp32, in eval mode, with inputs that fit it."""

    name: str
    model: Any
    seed: int
    recipe: Recipe

    @property
    def family(self) -> str:
        """`config.model_type`."""
        return self.recipe.family or self.name

    def inputs(self, batch_kind: str = "single") -> dict[str, Tensor]:
        """Keyword arguments for `forward`.

        Args:
            batch_kind: 'single' (one row, an image); 'left_padded' and 'right_padded': four rows of different length,
                pictures of different size where the family allows it, two of them in the last row, none in the third.
        """
        if batch_kind not in BATCH_KINDS:
            raise ValueError(f"batch_kind {batch_kind!r} is none of {BATCH_KINDS}")
        rows = (
            [(4, (16,), 7)] if batch_kind == "single" else [(4, (16,), 9), (1, (40,), 4), (0, (), 6), (2, (16, 24), 5)]
        )
        recipe, draw = self.recipe, torch.Generator().manual_seed(self.seed)
        images = recipe.pictures([heights for _, heights, _ in rows], draw)
        lengths = iter(recipe.lengths(self.model, images, [height for _, heights, _ in rows for height in heights]))
        ids: list[list[int]] = []
        for before, heights, after in rows:
            row = _words(before, draw)
            for _ in heights:
                row += [IMAGE] * next(lengths) + _words(1 if len(heights) > 1 else 0, draw)
            ids.append(row + _words(after, draw))
        inputs = {**_pad(ids, left=batch_kind != "right_padded"), **images}
        return {**inputs, **recipe.more(inputs)}


def _words(count: int, draw: torch.Generator) -> list[int]:
    return torch.randint(10, VOCAB, (count,), generator=draw).tolist()


def _pad(rows: list[list[int]], left: bool) -> dict[str, Tensor]:
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), PAD), torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        columns = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, columns], mask[i, columns] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask}


def tiny(family: str, num_layers: int = 4, seed: int = 0, attn_implementation: str = "sdpa") -> TinyModel:
    """A tiny random model of `family`, the same for the same seed; the global random state is left as it was."""
    if family not in _RECIPES:
        raise UnknownAnatomy(f"No tiny model of family {family!r}. Known: {', '.join(_RECIPES)}.")
    model_class, config = _RECIPES[family].build(num_layers)
    attention: Any = attn_implementation
    if eager := _RECIPES[family].without_sdpa:
        attention = {part: "eager" if part in eager else attn_implementation for part in ("", *config.sub_configs)}
    with seeded(seed):
        model = model_class._from_config(config, attn_implementation=attention)
        for weight in model.parameters():
            if weight.dim() > 1 and not weight.any():  # some projectors begin at zero, and would show nothing
                torch.nn.init.normal_(weight, std=0.25)
    model.generation_config.pad_token_id = PAD
    return TinyModel(family, model.eval(), seed, _RECIPES[family])
