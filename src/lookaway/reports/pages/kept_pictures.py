"""Pictures of what a policy keeps: patches fade where their visual tokens leave."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..collect import ReportData
from ..formatting import share

__all__ = ["kept_cards", "stages"]

GONE = 30
"""Brightness (of 255) of a patch whose token has left: a hint of the picture stays."""
MOST = 4
"""Stages drawn for one picture."""


def stages(layers: Sequence[int], num_layers: int) -> list[tuple[int, int, list[bool]]]:
    """Stretches of layers that saw the same tokens: (first layer, last layer, seen [V] each), in order.

    Args:
        layers: of each visual token the number of decoder layers that processed it.
    """
    ends = sorted({*(count for count in layers if 0 < count < num_layers), num_layers})
    found, first = [], 0
    for end in ends:
        found.append((first, end - 1, [count >= end for count in layers]))
        first = end
    return found


def kept_cards(data: ReportData) -> list[dict[str, Any]]:
    """What the template needs of each picture, in the order of the records."""
    return [_card(place, row) for place, row in enumerate(data.kept.values())]


def _card(place: int, row: dict[str, Any]) -> dict[str, Any]:
    found = stages(row["layers"], row["num_layers"])
    whole = len(row["layers"])
    shown = found if len(found) <= MOST else [*found[: MOST - 1], found[-1]]
    drawn = [(_layers(first, last), seen) for first, last, seen in shown]
    if 0 in row["layers"]:
        drawn.insert(0, ("before the decoder", [True] * whole))
    left = sum(found[-1][2])
    return {
        "key": f"kept{place}",
        "png": row["png"],
        "question": row["question"],
        "family": row["family"],
        "answer": row["answer"] or "(nothing)",
        "answer_without": row["answer_without"] or "(nothing)",
        "truth": row["truth"],
        "same": row["answer"] == row["answer_without"],
        "words": _words(row, left, whole),
        "stages": [
            {"mask": mask(seen, row["grid"]), "words": words, "count": f"{sum(seen)} of {whole}"}
            for words, seen in drawn
        ],
        "alternative": "; ".join(
            f"{_layers(first, last)}: {sum(seen)} of {whole} tokens" for first, last, seen in found
        ),
    }


def _words(row: dict[str, Any], left: int, whole: int) -> str:
    kept = f"{left} of {whole} visual tokens in the last layer, {share(row['flops_share'], 0)} of the prefill FLOPs"
    return f"Looked again: {kept}, both passes counted" if row["again"] else f"Answered after one pass: {kept}"


def _layers(first: int, last: int) -> str:
    return f"layer {first}" if first == last else f"layers {first}–{last}"


def mask(seen: Sequence[bool], grid: Sequence[int]) -> str:
    """A base64 PNG, one pixel a visual token, bright where the token is there: what the picture is seen through."""
    from PIL import Image

    values = np.where(np.array(seen, dtype=bool).reshape(*grid), 255, GONE).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
