"""Figures of a study: where attention goes, its stages, and whether layers rank the visual tokens alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..collect import ReportData
from ..published_curves import TAU, over_depth
from .drawing import band, families, finish, known, line, names_of
from .svg import INK, PALETTE, draw_svg

__all__ = ["cross_by_family", "entropy", "flow", "medians", "neighbours", "ranks", "shares", "spread_by_family",
           "stages"]  # fmt: skip

SIZE = (4.6, 3.4)
IMAGE, TEXT, FRONT, OWN = "#e07b39", "#3b82f6", "#8a94a3", "#2aa876"
FLOW = {"visual_self": ("image on image", OWN), "cross": ("text on image", IMAGE), "text_self": ("text on text", TEXT)}


def flow(data: ReportData) -> str:
    """The three published sums, heads merged by maximum, with one standard deviation over questions."""
    own = data.findings["flow"]["all"]["max"]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for name, (label, colour) in FLOW.items():
            mean = line(axes, own[name]["mean"], colour, label)
            spread = np.sqrt(np.array(own[name]["variance"], dtype=float))
            axes.fill_between(range(len(mean)), mean - spread, mean + spread, color=colour, alpha=0.16, lw=0)
        finish(figure, axes, "layer", "attention, heads merged by maximum", bottom=0)

    return draw_svg(draw, f"Attention by layer, heads merged by maximum. {_peaks(own, FLOW)}", SIZE)


def shares(data: ReportData) -> str:
    """Where the question's attention goes, as shares that add up to 1."""
    own = data.findings["flow"]["all"]["mean"]
    parts = [np.array(own[name]["mean"], dtype=float) for name in ("cross", "text_self", "text_to_system")]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.stackplot(range(len(parts[0])), parts, colors=(IMAGE, TEXT, FRONT), alpha=0.85,
                       labels=("on the image", "on the question", "on text in front of the image"))  # fmt: skip
        finish(figure, axes, "layer", "share of the question's attention", bottom=0, top=1)

    places = ("on the image", "on the question", "in front of the image")
    words = ", ".join(f"{100 * part.mean():.0f} % {name}" for part, name in zip(parts, places, strict=True))
    return draw_svg(draw, f"Shares of the question's attention by layer, on average {words}", SIZE)


def cross_by_family(data: ReportData) -> str:
    """Share of attention on the image, one line a family."""
    found = data.findings["flow"]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        families(axes, {name: found[name]["mean"]["cross"]["mean"] for name in found})
        finish(figure, axes, "layer", "share of attention on the image", bottom=0)

    return draw_svg(draw, f"Share of attention on the image by layer, for {names_of(found)}", SIZE)


def spread_by_family(data: ReportData) -> str:
    """How much questions of one family differ in that share: its standard deviation by layer."""
    found = {name: own for name, own in data.findings["flow"].items() if own["samples"] > 1 or name == "all"}

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        spread = {name: np.sqrt(np.array(own["mean"]["cross"]["variance"], dtype=float)) for name, own in found.items()}
        families(axes, spread)
        finish(figure, axes, "layer", "standard deviation over questions", bottom=0)

    return draw_svg(draw, f"Standard deviation of attention on the image by layer, for {names_of(found)}", SIZE)


def entropy(data: ReportData) -> str:
    """Entropy of text on image, and of text on text with and without exits."""
    found = data.findings["entropy"]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        line(axes, found["full"]["cross"]["mean"], IMAGE, "on the image")
        line(axes, found["full"]["text_self"]["mean"], TEXT, "text on text, no exit", lw=2.6)
        for number, layer in enumerate(name for name in found if name != "full"):
            line(axes, found[layer]["text_self"]["mean"], PALETTE[(number + 3) % len(PALETTE)],
                  f"text on text, exit at {layer}", ls="--", lw=1.3)  # fmt: skip
        finish(figure, axes, "layer", "entropy, nats", bottom=0)

    exits = ", ".join(name for name in found if name != "full")
    return draw_svg(draw, f"Entropy of attention by layer, without exit and with exits before layers {exits}", SIZE)


def stages(data: ReportData) -> str:
    """The curves from 0 to 1 with the change points found in them."""
    found = data.findings["stages"]
    own = data.findings["flow"]["all"][found["merge"]]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for low, change, high in zip(found["low"], found["changes"], found["high"], strict=True):
            axes.axvspan(low - 0.5, high - 0.5, color=FRONT, alpha=0.25, lw=0)
            axes.axvline(change - 0.5, color=INK, lw=1.2)
        for name, (label, colour) in FLOW.items():
            values = np.array(own[name]["mean"], dtype=float)
            spread = values.max() - values.min()
            line(axes, (values - values.min()) / (spread or 1.0), colour, label)
        finish(figure, axes, "layer", "each curve from its least to its most")

    first, second = found["changes"]
    return draw_svg(draw, f"Attention curves cut into three stages, at layers {first} and {second}", SIZE)


def ranks(data: ReportData) -> str:
    """Heat map of Kendall's tau between all pairs of layers."""
    values = np.array(data.findings["ranks"]["text"]["tau"], dtype=float)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        image = axes.imshow(values, cmap="cividis", vmin=min(0.0, float(np.nanmin(known(values)))), vmax=1,
                            interpolation="none", origin="lower")  # fmt: skip
        bar = figure.colorbar(image, ax=axes, shrink=0.9)
        bar.outline.set_visible(False)
        axes.set(xlabel="layer", ylabel="layer")

    depth = len(values)
    far = values[0, depth - 1]
    words = f"Kendall's tau between visual-token scores of all pairs of {depth} layers; first and last layer {far:.2f}"
    return draw_svg(draw, words, SIZE)


def neighbours(data: ReportData) -> str:
    """Tau and overlap of each layer with the next."""
    found = data.findings["ranks"]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for query, label, colour in (("text", "τ, the question's tokens", IMAGE), ("last", "τ, the last token", TEXT)):
            band(axes, found[query]["next_tau"], colour, label)
        overlap = found["text"]["next_overlap"][0]
        top = f"overlap of the highest {100 * found['top_share']:.0f} %"
        axes.plot(range(len(overlap)), overlap, color=OWN, lw=1.4, ls="--", label=top)
        for number, (label, values) in enumerate(TAU.items()):
            axes.plot(over_depth(values, len(overlap)), values, color=FRONT, lw=1, ls=(":", "-.")[number], label=label)
        finish(figure, axes, "layer, with the next one", "agreement", top=1.03)

    words = "Kendall's tau and overlap of visual-token scores between each layer and the next, beside published curves"
    return draw_svg(draw, words, SIZE)


def medians(data: ReportData) -> str:
    """Median score of a visual token by layer."""
    found = data.findings["ranks"]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for query, label, colour in (("text", "the question's tokens", IMAGE), ("last", "the last token", TEXT)):
            line(axes, found[query]["median"], colour, label)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        finish(figure, axes, "layer", "median score of a visual token", bottom=0)

    return draw_svg(draw, "Median attention on a visual token by layer, from the question's tokens and the last", SIZE)


def _peaks(own: dict[str, Any], names: dict[str, tuple[str, str]]) -> str:
    parts = []
    for name, (label, _) in names.items():
        values = np.array(own[name]["mean"], dtype=float)
        parts.append(f"{label} peaks in layer {int(values.argmax())} at {values.max():.2f}")
    return "; ".join(parts) + "."
