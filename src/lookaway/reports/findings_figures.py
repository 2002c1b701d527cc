"""Figures of a study, from its tables. What they draw is tested as data; here it is only drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .collect import ReportData
from .svg import INK, PALETTE, draw_svg, legend_below

__all__ = ["causes", "changed", "cross_by_family", "earliest", "entropy", "flow", "medians", "neighbours", "ranks",
           "saliency", "shares", "stages", "stopping"]  # fmt: skip

SIZE = (4.6, 3.4)
IMAGE, TEXT, FRONT, OWN = "#e07b39", "#3b82f6", "#8a94a3", "#2aa876"
FLOW = {"visual_self": ("image on image", OWN), "cross": ("text on image", IMAGE), "text_self": ("text on text", TEXT)}


def flow(data: ReportData) -> str:
    """The three published sums, heads merged by maximum, with one standard deviation over questions."""
    own = data.findings["flow"]["all"]["max"]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for name, (label, colour) in FLOW.items():
            mean = _line(axes, own[name]["mean"], colour, label)
            spread = np.sqrt(np.array(own[name]["variance"], dtype=float))
            axes.fill_between(range(len(mean)), mean - spread, mean + spread, color=colour, alpha=0.16, lw=0)
        _finish(figure, axes, "layer", "attention, heads merged by maximum", bottom=0)

    return draw_svg(draw, f"Attention by layer, heads merged by maximum. {_peaks(own, FLOW)}", SIZE)


def shares(data: ReportData) -> str:
    """Where the question's attention goes, as shares that add up to 1."""
    own = data.findings["flow"]["all"]["mean"]
    parts = [np.array(own[name]["mean"], dtype=float) for name in ("cross", "text_self", "text_to_system")]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.stackplot(range(len(parts[0])), parts, colors=(IMAGE, TEXT, FRONT), alpha=0.85,
                       labels=("on the image", "on the question", "on text in front of the image"))  # fmt: skip
        _finish(figure, axes, "layer", "share of the question's attention", bottom=0, top=1)

    places = ("on the image", "on the question", "in front of the image")
    words = ", ".join(f"{100 * part.mean():.0f} % {name}" for part, name in zip(parts, places, strict=True))
    return draw_svg(draw, f"Shares of the question's attention by layer, on average {words}", SIZE)


def cross_by_family(data: ReportData) -> str:
    """Share of attention on the image, one line a family."""
    found = data.findings["flow"]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        _families(axes, {name: found[name]["mean"]["cross"]["mean"] for name in found})
        _finish(figure, axes, "layer", "share of attention on the image", bottom=0)

    return draw_svg(draw, f"Share of attention on the image by layer, for {_names(found)}", SIZE)


def entropy(data: ReportData) -> str:
    """Entropy of text on image, and of text on text with and without exits."""
    found = data.findings["entropy"]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        _line(axes, found["full"]["cross"]["mean"], IMAGE, "on the image")
        _line(axes, found["full"]["text_self"]["mean"], TEXT, "text on text, no exit", lw=2.6)
        for number, layer in enumerate(name for name in found if name != "full"):
            _line(axes, found[layer]["text_self"]["mean"], PALETTE[(number + 3) % len(PALETTE)],
                  f"text on text, exit at {layer}", ls="--", lw=1.3)  # fmt: skip
        _finish(figure, axes, "layer", "entropy, nats", bottom=0)

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
            _line(axes, (values - values.min()) / (spread or 1.0), colour, label)
        _finish(figure, axes, "layer", "each curve from its least to its most")

    first, second = found["changes"]
    return draw_svg(draw, f"Attention curves cut into three stages, at layers {first} and {second}", SIZE)


def causes(data: ReportData) -> str:
    """Attention mass, knockout effect and gradient saliency of each window, as shares of their own sums."""
    found = data.findings["causes"]
    middle = _middles(found)
    curves = {"attention on the image": ("mass", IMAGE), "rise of the loss when blinded": ("effect", OWN),
              "gradient saliency": ("saliency", TEXT)}  # fmt: skip

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for label, (name, colour) in curves.items():
            values = np.maximum(np.array(found[name][0], dtype=float), 0)
            axes.plot(middle, values / (values.sum() or 1.0), color=colour, lw=2.4 if name == "effect" else 1.6,
                      label=label)  # fmt: skip
        _finish(figure, axes, f"middle of {_width(found)} layers", "share of its own sum", bottom=0)

    value = found["agreement"]["mass"][0]
    words = "" if value is None else f"; attention and effect rank the windows with a correlation of {value:.2f}"
    return draw_svg(draw, f"Attention on the image, effect of knockouts and saliency, window by window{words}", SIZE)


def changed(data: ReportData) -> str:
    """Share of answers that a knockout changes, by window and family."""
    found = data.findings["causes"]
    middle = _middles(found)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        _, low, high = found["changed"]
        axes.fill_between(middle, low, high, color=INK, alpha=0.13, lw=0)
        _families(axes, {name: own["changed"] for name, own in found["families"].items()}, middle)
        _finish(figure, axes, f"middle of {_width(found)} blinded layers", "answers changed", bottom=0, top=1.03)

    words = (
        f"Share of answers that change when {_width(found)} layers are blinded, at most {max(found['changed'][0]):.2f}"
    )
    return draw_svg(draw, words, SIZE)


def saliency(data: ReportData) -> str:
    """Where the answer hangs on reading, and how much hangs on what may still be read."""
    found = data.findings["saliency"]["all"]

    def draw(figure: Any) -> None:
        left, right = figure.subplots(2, 1, sharex=True)
        for axes, name, colour, label in ((left, "reading", TEXT, "reading, share"),
                                          (right, "remaining", OWN, "still to read")):  # fmt: skip
            mean, low, high = (np.array(part, dtype=float) for part in found[name])
            axes.plot(range(len(mean)), mean, color=colour, lw=2)
            axes.fill_between(range(len(mean)), low, high, color=colour, alpha=0.18, lw=0)
            axes.set(ylabel=label)
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.18, color=INK)
        right.set(xlabel="layer")
        _whole(right)

    peak = int(np.nanargmax(_known(found["reading"][0])))
    return draw_svg(draw, f"Gradient saliency of reading the image by layer, highest in layer {peak}; below it what "
                          "hangs on the image that enters each layer", SIZE)  # fmt: skip


def stopping(data: ReportData) -> str:
    """Agreement and accuracy for a fixed exit at every layer."""
    found = data.findings["stopping"]
    whole = found["all"]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        _, low, high = whole["agreement"]
        axes.fill_between(whole["layers"], low, high, color=INK, alpha=0.13, lw=0)
        _families(axes, {name: own["agreement"][0] for name, own in found.items()}, whole["layers"])
        if whole["accuracy"]:
            axes.plot(whole["layers"], whole["accuracy"][0], color=INK, lw=1.6, ls="--", label="all: accuracy")
        _finish(figure, axes, "visual tokens leave before layer", "same answer", bottom=0, top=1.03)

    return draw_svg(
        draw, f"Share of answers that stay the same for an exit before every layer, for {_names(found)}", SIZE
    )


def earliest(data: ReportData) -> str:
    """Earliest safe exits, stacked by family."""
    found = data.findings["stopping"]
    families = [name for name in found if name != "all"] or ["all"]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        depth = found["all"]["layers"][-1]
        base = np.zeros(depth + 1)
        for number, name in enumerate(families):
            axes.bar(range(depth + 1), found[name]["earliest"], bottom=base, width=0.85, label=name,
                     color=PALETTE[number % len(PALETTE)])  # fmt: skip
            base += np.array(found[name]["earliest"])
        axes.yaxis.get_major_locator().set_params(integer=True)
        step = max(1, depth // 6)
        ticks = [tick for tick in range(0, depth, step) if depth - tick >= step]
        axes.set_xticks([*ticks, depth], [*map(str, ticks), "never"])
        _finish(figure, axes, "earliest exit that leaves the answer as it is", "questions", bottom=0, whole=False)

    return draw_svg(draw, f"Number of questions for each earliest safe exit, for {_names(found)}", SIZE)


def ranks(data: ReportData) -> str:
    """Heat map of Kendall's tau between all pairs of layers."""
    values = np.array(data.findings["ranks"]["text"]["tau"], dtype=float)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        image = axes.imshow(values, cmap="cividis", vmin=min(0.0, float(np.nanmin(_known(values)))), vmax=1,
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
            mean, low, high = (np.array(part, dtype=float) for part in found[query]["next_tau"])
            axes.plot(range(len(mean)), mean, color=colour, lw=2, label=label)
            axes.fill_between(range(len(mean)), low, high, color=colour, alpha=0.18, lw=0)
        overlap = found["text"]["next_overlap"][0]
        top = f"overlap of the highest {100 * found['top_share']:.0f} %"
        axes.plot(range(len(overlap)), overlap, color=OWN, lw=1.4, ls="--", label=top)
        axes.axhline(0.7, color=FRONT, lw=1, ls=":")
        _finish(figure, axes, "layer, with the next one", "agreement", top=1.03)

    words = "Kendall's tau and overlap of visual-token scores between each layer and the next; dotted: 0.7"
    return draw_svg(draw, words, SIZE)


def medians(data: ReportData) -> str:
    """Median score of a visual token by layer."""
    found = data.findings["ranks"]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for query, label, colour in (("text", "the question's tokens", IMAGE), ("last", "the last token", TEXT)):
            _line(axes, found[query]["median"], colour, label)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        _finish(figure, axes, "layer", "median score of a visual token", bottom=0)

    return draw_svg(draw, "Median attention on a visual token by layer, from the question's tokens and the last", SIZE)


def _line(axes: Any, values: Sequence[float | None], colour: str, label: str, lw: float = 1.9, ls: str = "-") -> Any:
    curve = np.array(values, dtype=float)
    axes.plot(range(len(curve)), curve, color=colour, lw=lw, ls=ls, label=label)
    return curve


def _families(axes: Any, curves: dict[str, Any], places: Sequence[float] | None = None) -> None:
    """Thin lines for families, a bold one for all questions."""
    x = range(len(curves["all"])) if places is None else places
    for number, (name, curve) in enumerate((n, c) for n, c in curves.items() if n != "all"):
        axes.plot(x, curve, color=PALETTE[number % len(PALETTE)], lw=1.1, alpha=0.9, label=name)
    axes.plot(x, curves["all"], color=INK, lw=2.6, label="all questions")


def _finish(
    figure: Any, axes: Any, x: str, y: str, bottom: float | None = None, top: float | None = None, whole: bool = True
) -> None:
    axes.set(xlabel=x, ylabel=y)
    if bottom is not None:
        axes.set_ylim(bottom=bottom)
    if top is not None:
        axes.set_ylim(top=top)
    axes.set_axisbelow(True)
    axes.grid(alpha=0.18, color=INK)
    if whole:
        _whole(axes)
    if len(axes.get_legend_handles_labels()[1]) > 1:
        legend_below(figure)


def _whole(axes: Any) -> None:
    """Layers are whole numbers."""
    axes.xaxis.get_major_locator().set_params(integer=True)


def _middles(found: dict[str, Any]) -> list[float]:
    return [(first + stop - 1) / 2 for first, stop in found["windows"]]


def _width(found: dict[str, Any]) -> int:
    first, stop = found["windows"][0]
    return int(stop - first)


def _known(values: Any) -> Any:
    """NaN as 0 where nothing is known at all."""
    array = np.array(values, dtype=float)
    return np.nan_to_num(array) if np.isnan(array).all() else array


def _names(found: dict[str, Any]) -> str:
    return ", ".join("all questions" if name == "all" else name for name in found)


def _peaks(own: dict[str, Any], names: dict[str, tuple[str, str]]) -> str:
    parts = []
    for name, (label, _) in names.items():
        values = np.array(own[name]["mean"], dtype=float)
        parts.append(f"{label} peaks in layer {int(values.argmax())} at {values.max():.2f}")
    return "; ".join(parts) + "."
