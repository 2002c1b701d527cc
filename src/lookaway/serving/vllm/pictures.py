"""Where the pictures of a prompt are, as `la.attach` sees them on the same model in transformers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from math import isqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...anatomy.families.llava import fixed_grid
from ...core.layout import ImageSpan, TokenLayout

__all__ = ["KnownGrids", "grid_of", "has_grids", "own_grid", "spans_of", "visual_ranges"]


def grid_of(model_config: Any) -> tuple[int, int] | None:
    """(rows, columns) of each picture's visual tokens, from vLLM's `ModelConfig`; None where pictures differ."""
    if model_config.architectures[0] != "LlavaForConditionalGeneration":
        return None
    return fixed_grid(model_config.hf_config)


def has_grids(model_config: Any) -> bool:
    """Whether the rows and columns of each picture's visual tokens are known."""
    return grid_of(model_config) is not None or model_config.architectures[0].startswith("Qwen2")


def visual_ranges(mm_features: Iterable[Any]) -> list[tuple[int, int]]:
    """[(first, last + 1)] of a request's visual tokens, as positions in its prompt.

    Args:
        mm_features: vLLM's `MultiModalFeatureSpec`s of the request.
    """
    return [(first, last + 1) for feature in mm_features for first, last in feature.mm_position.extract_embeds_range()]


def spans_of(
    visual: NDArray[np.bool_],
    mm_features: Iterable[Any],
    grid: tuple[int, int] | None,
    find_grid: Callable[[Any, int], tuple[int, int] | None] | None = None,
) -> tuple[ImageSpan, ...]:
    """The pictures of a whole prompt: with the grid that all have, or with their own (Qwen-VL), or without one.

    Args:
        visual: bool [P], the prompt's visual tokens.
        mm_features: vLLM's `MultiModalFeatureSpec`s of the request.
        grid: (rows, columns) of every picture, as `grid_of` gives it.
        find_grid: in place of `own_grid`.
    """
    spans = TokenLayout.from_masks(torch.from_numpy(visual)[None], grid=grid).spans[0]
    find = find_grid or own_grid
    own = [find(feature, feature.mm_position.get_num_embeds()) for feature in mm_features]
    if len(own) != len(spans) or None in own:
        return spans
    return tuple(ImageSpan(span.start, span.length, found) for span, found in zip(spans, own, strict=True))


def own_grid(feature: Any, tokens: int) -> tuple[int, int] | None:
    """What `image_grid_thw` says of a picture of so many visual tokens; it counts patches, of which a token merges a
    square."""
    item = None if feature.data is None else feature.data.get("image_grid_thw")
    if item is None:
        return None
    frames, rows, columns = item.data.flatten().tolist()
    merge = isqrt(rows * columns // tokens) if tokens else 0
    if frames != 1 or not merge or rows * columns != tokens * merge * merge:
        return None
    return rows // merge, columns // merge


class KnownGrids:
    """`own_grid` in the front end, which has a picture's data only when it is new to vLLM's processor cache."""

    MOST = 200_000
    """Pictures that are remembered, a few bytes each: more than the cache holds of any useful size."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def __call__(self, feature: Any, tokens: int) -> tuple[int, int] | None:
        key = feature.mm_hash or feature.identifier
        found = self._known.get(key) if feature.data is None else own_grid(feature, tokens)
        if found is not None:
            self._known[key] = found
            self._known.move_to_end(key)
            if len(self._known) > self.MOST:
                self._known.popitem(last=False)
        return found
