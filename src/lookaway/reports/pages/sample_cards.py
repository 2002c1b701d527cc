"""Cards of the samples that a study shows: the picture, and per layer what the text still reads from it."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.layer_counts import processed
from ..collect import ReportData, visual_tokens_of_prompt
from ..formatting import share

__all__ = ["heat", "look_cards", "tokens_of"]

DARKEST = 200
"""Opacity (of 255) over a token that nobody looks at."""
REASONS = {
    "earliest": "among the earliest exits",
    "latest": "among the latest exits",
    "wrong_after": "right without exit, wrong after one",
    "right_only_after": "wrong without exit, right after one",
    "changed_after": "another answer after an exit",
}


def look_cards(data: ReportData) -> list[dict[str, Any]]:
    """What the template needs of each chosen sample, in the order in which the study chose them."""
    policies = {sample["id"]: sample for sample in data.samples}
    cards = []
    for place, (name, look) in enumerate(data.looks.items()):
        study = data.studies.get(name)
        if study is None:
            continue
        policy = policies.get(name) if look.get("with_policy", look["by_policy"]) else None
        right = study["exits"]["full_right"]
        cards.append(
            {
                "key": f"look{place}",
                "png": look["png"],
                "question": study["question"],
                "truth": study["truth"],
                "answer": study["answer"] or "(nothing)",
                "answer_with": (policy["answer_with"] or "(nothing)") if policy else None,
                "mark_without": _mark(right),
                "mark_with": _mark(policy["right_with"]) if policy else "",
                "words": _words(study, look, policy),
                "reasons_words": [_reason(reason, study, look) for reason in look["reasons"]],
                "strip_words": _strip_words(study),
                "tiles": _tiles(study, look) if look["aligned"] and study["looks"]["grid"] else [],
            }
        )
    return cards


def tokens_of(study: dict[str, Any]) -> NDArray[np.uint8]:
    """What the text reads from each visual token, uint8 [L, rows, columns]; 255 is the layer's highest."""
    rows, columns = study["looks"]["grid"]
    values = np.frombuffer(base64.b64decode(study["looks"]["bytes"]), dtype=np.uint8)
    return values.reshape(study["num_layers"], rows, columns)


def heat(values: NDArray[np.uint8]) -> str:
    """A base64 PNG, one pixel a visual token, that darkens what is not looked at."""
    from PIL import Image

    shade = np.zeros((*values.shape, 2), dtype=np.uint8)
    shade[..., 1] = DARKEST - (values.astype(np.uint16) * DARKEST // 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(shade, "LA").save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _tiles(study: dict[str, Any], look: dict[str, Any]) -> list[dict[str, str]]:
    exit_layer = study["num_layers"] if look["exit_layer"] is None else look["exit_layer"]
    tiles = []
    for layer, values in enumerate(tokens_of(study)):
        mark = "gone" if layer >= exit_layer else "last" if layer == exit_layer - 1 else ""
        part = share(study["flow"]["mean"]["cross"][layer], 0).replace(" ", "\u202f")
        tiles.append({"png": heat(values), "mark": mark, "words": f"{layer} · {part}"})
    return tiles


def _words(study: dict[str, Any], look: dict[str, Any], policy: dict[str, Any] | None) -> str:
    """What the policy's layers processed, or what an exit would have to be."""
    depth, layer = study["num_layers"], look["exit_layer"]
    words = []
    if policy is not None:
        words.append(processed(policy["visual_tokens"], visual_tokens_of_prompt(policy)))
    elif look["by_policy"]:  # records of 0.1
        left = f"all visual tokens left before layer {layer} of {depth}"
        words.append(f"visual tokens stayed in all {depth} layers" if layer is None else left)
    if not look["by_policy"]:
        safe = f"earliest safe exit: before layer {layer} of {depth}"
        words.append(f"needs the image in all {depth} layers" if layer is None else safe)
    return " · ".join(part for part in (*words, study["family"]) if part)


def _reason(reason: str, study: dict[str, Any], look: dict[str, Any]) -> str:
    words = REASONS[reason]
    if reason in ("wrong_after", "changed_after") and not look["by_policy"]:
        words += f" before layer {max(study['num_layers'] // 2, study['exits']['layers'][0])}"
    return words


def _strip_words(study: dict[str, Any]) -> str:
    cross = study["flow"]["mean"]["cross"]
    most = max(range(len(cross)), key=cross.__getitem__)
    return (
        f"The picture once for each of {len(cross)} layers, bright where the question looks. The image gets most "
        f"attention in layer {most}, {share(cross[most])}."
    )


def _mark(right: bool | None) -> str:
    return "" if right is None else "right" if right else "wrong"
