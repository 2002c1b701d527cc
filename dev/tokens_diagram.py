"""docs/images/tokens-leaving.svg: which visual tokens each decoder layer still processes, in three panels.

    python dev/tokens_diagram.py > docs/images/tokens-leaving.svg

A drawing, no measurement: 10 layers and 8 visual tokens stand for the 30 layers and 196 tokens of a real model.
"""

from __future__ import annotations

import sys

LAYERS, VISUAL, TEXT = 10, 8, 3
CELL, GAP, PANEL, LEFT, TOP = 17, 3, 268, 24, 74
ORANGE, BLUE, EMPTY, INK, PALE = "#e8842c", "#3f72af", "#eceff3", "#1f2933", "#52606d"

PANELS = (
    ("No policy", "every layer processes every token", lambda layer: VISUAL),
    ("FastV", "half of the tokens leave before layer 2", lambda layer: VISUAL if layer < 2 else VISUAL // 2),
    ("FastV, then an exit gate", "the rest leave when the gate says so",
     lambda layer: VISUAL if layer < 2 else VISUAL // 2 * (layer < 6)),
)  # fmt: skip


def text(x: float, y: float, words: str, size: int = 13, ink: str = INK, weight: str = "normal") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{ink}" font-weight="{weight}">{words}</text>'


def cell(x: float, y: float, fill: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" rx="3" fill="{fill}"/>'


def panel(number: int) -> list[str]:
    title, caption, kept = PANELS[number]
    x0 = LEFT + number * PANEL
    parts = [text(x0, 34, title, 16, INK, "bold"), text(x0, 54, caption, 12, PALE)]
    for layer in range(LAYERS):
        x = x0 + layer * (CELL + GAP)
        for place in range(VISUAL):
            stays = place < kept(layer)
            parts.append(cell(x, TOP + (VISUAL - 1 - place) * (CELL + GAP), ORANGE if stays else EMPTY))
        for place in range(TEXT):
            parts.append(cell(x, TOP + (VISUAL + place) * (CELL + GAP) + 6, BLUE))
    bottom = TOP + (VISUAL + TEXT) * (CELL + GAP) + 22
    parts.append(text(x0, bottom, "first layer", 12, PALE))
    parts.append(
        f'<text x="{x0 + LAYERS * (CELL + GAP) - GAP}" y="{bottom}" font-size="12" fill="{PALE}" '
        'text-anchor="end">last layer</text>'
    )
    return parts


def drawing() -> str:
    width, height = LEFT * 2 + PANEL * 3 - (PANEL - LAYERS * (CELL + GAP)), TOP + (VISUAL + TEXT) * (CELL + GAP) + 80
    y = height - 24
    legend = [cell(LEFT, y - 13, ORANGE), text(LEFT + 24, y, "visual token", 12)]
    legend += [cell(LEFT + 118, y - 13, BLUE), text(LEFT + 142, y, "text token", 12)]
    legend += [cell(LEFT + 226, y - 13, EMPTY), text(LEFT + 250, y, "removed: not computed, no KV cache entry", 12)]
    label = "Three panels of decoder layers; visual tokens leave earlier from panel to panel, text tokens stay"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{label}" font-family="system-ui, sans-serif">'
    )
    background = f'<rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>'
    return "\n".join([head, background, *(p for n in range(len(PANELS)) for p in panel(n)), *legend, "</svg>"]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(drawing())
