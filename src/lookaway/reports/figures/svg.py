"""A matplotlib figure as inline SVG: transparent, in colours that read on light and on dark, text as text.

Axes and words are drawn in one placeholder colour that becomes `currentColor`, so the page's theme sets it.
"""

from __future__ import annotations

import html
import io
import re
import zlib
from collections.abc import Callable
from typing import Any

from ...core.errors import MissingDependency

__all__ = ["INK", "PALETTE", "draw_svg", "legend_below", "standalone"]

INK = "#123456"  # replaced by currentColor
PALETTE = ("#3b82f6", "#e07b39", "#2aa876", "#c0558f", "#8b6fd6", "#b3932b", "#3aa6b9", "#d1495b", "#7a8b99", "#5f9e3f",
           "#a65e2e", "#6b7fd7", "#c77dba")  # fmt: skip


SMALL = 8
"""Points of a legend's words."""


def draw_svg(draw: Callable[[Any], None], alternative: str, size: tuple[float, float] = (4.6, 3.4)) -> str:
    """Run `draw(figure)` and return the SVG element.

    Args:
        alternative: its accessible name: what a reader who does not see it should know. No two on one page are equal.
        size: inches; smaller means larger words on a phone.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependency.of("matplotlib", "report") from None
    style: Any = {f"{part}.color": INK for part in ("text", "xtick", "ytick")}
    style |= {"axes.edgecolor": INK, "axes.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False}
    style |= {"font.size": 9.5, "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"]}
    style |= {"svg.fonttype": "none", "svg.hashsalt": "lookaway"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_alpha(0)
        draw(figure)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
            axes.margins(x=0.02)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor").replace("DejaVu Sans", "inherit")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    # the page scales it; ids are made unique so that two figures on one page do not share clip paths
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", svg, count=1)
    mark = f"f{zlib.crc32(alternative.encode()):08x}"
    svg = re.sub(r'id="([^"]+)"', rf'id="{mark}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{mark}-\1)", svg).replace('xlink:href="#', f'xlink:href="#{mark}-')
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alternative)}" ', 1)


def legend_below(figure: Any) -> None:
    """What all axes have labelled, under the figure, in as many columns as the longest label allows."""
    found = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles, labels = ([one for part in parts for one in part] for parts in zip(*found, strict=True))
    if not labels:
        return
    column = 0.56 * SMALL * max(map(len, labels)) + 36
    columns = max(1, min(len(labels), int(72 * figure.get_figwidth() // column)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=SMALL)


def standalone(svg: str, width: int = 460) -> str:
    """The same as a file of its own, for <img>: with a width, words in a sans-serif, ink by the reader's theme."""
    light, dark = "svg{color:#1c2430;font-family:sans-serif}", "svg{color:#e6eaf0}"
    style = f"<style>{light}@media(prefers-color-scheme:dark){{{dark}}}</style>"
    return re.sub(r"(<svg )([^>]*>)", rf'\1width="{width}" \2{style}', svg, count=1) + "\n"
