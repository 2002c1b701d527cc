"""Rows and columns of each picture's visual tokens, where a model takes pictures at their own size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..core.layout import ImageSpan, TokenLayout
from .base import Anatomy

__all__ = ["with_grids"]


def with_grids(layout: TokenLayout, anatomy: Anatomy, inputs: Mapping[str, Any]) -> TokenLayout:
    """The layout with the grids that a forward's `image_grid_thw` and `video_grid_thw` give (Qwen-VL, GLM-4V).

    A video that stands in one piece becomes one span a frame. Where the tokens are not those of the grids, nothing is
    known of them, and the layout stays as it is.

    Args:
        layout: of the prompt, [B, S].
        inputs: of the forward, by name; grids count patches, of which a token merges a square.
    """
    merge = getattr(getattr(anatomy.model.config, "vision_config", None), "spatial_merge_size", None)
    grids = {kind: inputs.get(f"{kind}_grid_thw") for kind in ("image", "video")}
    ids = inputs.get("input_ids")
    if not isinstance(merge, int) or all(grid is None for grid in grids.values()):
        return layout
    if ids is None and grids["video"] is not None:
        return layout  # embeddings do not say which of them is a video's
    left = {kind: [] if grid is None else [(t, h // merge, w // merge) for t, h, w in grid.tolist()]
            for kind, grid in grids.items()}  # fmt: skip
    rows = []
    for row, spans in enumerate(layout.spans):
        found: list[ImageSpan] = []
        for span in spans:
            pictures = left["video" if _is_video(anatomy, ids, row, span) else "image"]
            parts = _frames(span, pictures)
            if parts is None:
                return layout
            found += parts
        rows.append(tuple(found))
    if any(left.values()):
        return layout
    return TokenLayout(layout.visual, layout.text, layout.padding, tuple(rows))


def _is_video(anatomy: Anatomy, ids: Tensor | None, row: int, span: ImageSpan) -> bool:
    return ids is not None and int(ids[row, span.start]) != anatomy.image_token_id


def _frames(span: ImageSpan, pictures: list[tuple[int, int, int]]) -> list[ImageSpan] | None:
    """The span, one a frame, with their grid; what it used up is taken from `pictures`. None: it does not fit."""
    found, start = [], span.start
    while start < span.start + span.length:
        if not pictures:
            return None
        frames, high, wide = pictures.pop(0)
        if start + high * wide > span.start + span.length:
            return None
        found.append(ImageSpan(start, high * wide, (high, wide)))
        start += high * wide
        if frames > 1:  # the next frame follows here, or behind a time stamp
            pictures.insert(0, (frames - 1, high, wide))
    return found
