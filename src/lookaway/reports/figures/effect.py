"""Figures of a study: the effect of the image by layer, and when it stops mattering."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..collect import ReportData
from .attention import IMAGE, OWN, SIZE, TEXT
from .drawing import band, families, finish, known, names_of, whole_numbers
from .svg import INK, PALETTE, draw_svg

__all__ = ["accuracy", "causes", "changed", "earliest", "saliency", "stopping"]


def causes(data: ReportData) -> str:
    """Attention mass, knockout effect and gradient saliency of each window, as shares of their own sums."""
    found = data.findings["causes"]
    middle = _middles(found)
    curves = {"attention on the image": ("mass", IMAGE), "rise of the loss when blocked": ("effect", OWN),
              "gradient saliency": ("saliency", TEXT)}  # fmt: skip

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for label, (name, colour) in curves.items():
            values = np.maximum(np.array(found[name][0], dtype=float), 0)
            axes.plot(middle, values / (values.sum() or 1.0), color=colour, lw=2.4 if name == "effect" else 1.6,
                      label=label)  # fmt: skip
        finish(figure, axes, f"middle of {_width(found)} layers", "share of its own sum", bottom=0)

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
        families(axes, {name: own["changed"] for name, own in found["families"].items()}, middle)
        finish(figure, axes, f"middle of {_width(found)} blocked layers", "answers changed", bottom=0, top=1.03)

    words = (
        f"Share of answers that change when {_width(found)} layers are blocked, at most {max(found['changed'][0]):.2f}"
    )
    return draw_svg(draw, words, SIZE)


def saliency(data: ReportData) -> str:
    """How much the answer depends on reading the image in each layer, and in it and all later ones together."""
    found = data.findings["saliency"]["all"]

    def draw(figure: Any) -> None:
        left, right = figure.subplots(2, 1, sharex=True)
        for axes, name, colour, label in ((left, "reading", TEXT, "reading, share"),
                                          (right, "remaining", OWN, "still to read, share")):  # fmt: skip
            band(axes, found[name], colour)
            axes.set(ylabel=label)
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.18, color=INK)
        right.set(xlabel="layer")
        whole_numbers(right)

    peak = int(np.nanargmax(known(found["reading"][0])))
    return draw_svg(draw, f"Gradient saliency of reading the image by layer, highest in layer {peak}; below it the "
                          "share that lies in each layer and all later ones", SIZE)  # fmt: skip


def stopping(data: ReportData) -> str:
    """Agreement for a fixed exit at every layer."""
    found = data.findings["stopping"]
    words = f"Share of answers that stay the same for an exit before every layer, for {names_of(found)}"
    return _by_exit(found, "agreement", "same answer", words)


def accuracy(data: ReportData) -> str:
    """Accuracy for a fixed exit at every layer; only where every question has its ground truth."""
    found = {name: own for name, own in data.findings["stopping"].items() if own["accuracy"]}
    values = found["all"]["accuracy"][0]
    words = f"Accuracy for an exit before every layer, {values[0]:.0%} at the first and {values[-1]:.0%} without, for "
    return _by_exit(found, "accuracy", "accuracy", words + names_of(found))


def _by_exit(found: dict[str, Any], name: str, label: str, words: str) -> str:
    """A share by exit layer: all questions with their interval, and each family."""
    whole = found["all"]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        _, low, high = whole[name]
        axes.fill_between(whole["layers"], low, high, color=INK, alpha=0.13, lw=0)
        families(axes, {family: own[name][0] for family, own in found.items()}, whole["layers"])
        finish(figure, axes, "visual tokens leave before layer", label, bottom=0, top=1.03)

    return draw_svg(draw, words, SIZE)


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
        finish(figure, axes, "earliest exit that keeps the answer", "questions", bottom=0, whole=False)

    return draw_svg(draw, f"Number of questions for each earliest safe exit, for {names_of(found)}", SIZE)


def _middles(found: dict[str, Any]) -> list[float]:
    return [(first + stop - 1) / 2 for first, stop in found["windows"]]


def _width(found: dict[str, Any]) -> int:
    first, stop = found["windows"][0]
    return int(stop - first)
