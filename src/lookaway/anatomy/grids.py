"""Rows and columns of each picture's visual tokens, where a model takes pictures at their own size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
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
    videos = _videos(anatomy, ids, layout, grids)
    rows = []
    for spans in layout.spans:
        found: list[ImageSpan] = []
        for span in spans:
            pictures = left["video" if next(videos) else "image"]
            parts = _frames(span, pictures)
            if parts is None:
                return layout
            found += parts
        rows.append(tuple(found))
    if any(left.values()):
        return layout
    return replace(layout, spans=tuple(rows))


def _videos(anatomy: Anatomy, ids: Tensor | None, layout: TokenLayout, grids: Mapping[str, Any]) -> Iterator[bool]:
    """Which of the layout's spans are videos, row by row; one host read where the prompt may hold both kinds."""
    places = [(row, span.start) for row, spans in enumerate(layout.spans) for span in spans]
    if ids is None or grids["video"] is None or not places:
        return iter([False] * len(places))
    rows, starts = torch.tensor(places, device=ids.device).T
    return iter([token != anatomy.image_token_id for token in ids[rows, starts].tolist()])


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
