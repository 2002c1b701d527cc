"""What the figures of a study share: curves, one line a family, axes with their legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .svg import INK, PALETTE, legend_below

__all__ = ["band", "families", "finish", "known", "line", "names_of", "whole_numbers"]


def line(axes: Any, values: Sequence[float | None], colour: str, label: str, lw: float = 1.9, ls: str = "-") -> Any:
    curve = np.array(values, dtype=float)
    axes.plot(range(len(curve)), curve, color=colour, lw=lw, ls=ls, label=label)
    return curve


def band(axes: Any, curve: Sequence[Sequence[float | None]], colour: str, label: str | None = None) -> None:
    """A curve by layer, (mean, low, high) each [L], with its interval shaded."""
    mean, low, high = (np.array(part, dtype=float) for part in curve)
    axes.plot(range(len(mean)), mean, color=colour, lw=2, label=label)
    axes.fill_between(range(len(mean)), low, high, color=colour, alpha=0.18, lw=0)


def families(axes: Any, curves: dict[str, Any], places: Sequence[float] | None = None) -> None:
    """Thin lines for families, a bold one for all questions."""
    x = range(len(curves["all"])) if places is None else places
    for number, (name, curve) in enumerate((n, c) for n, c in curves.items() if n != "all"):
        axes.plot(x, curve, color=PALETTE[number % len(PALETTE)], lw=1.1, alpha=0.9, label=name)
    axes.plot(x, curves["all"], color=INK, lw=2.6, label="all questions")


def finish(
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
        whole_numbers(axes)
    if len(axes.get_legend_handles_labels()[1]) > 1:
        legend_below(figure)


def whole_numbers(axes: Any) -> None:
    """Layers are whole numbers."""
    axes.xaxis.get_major_locator().set_params(integer=True)


def known(values: Any) -> Any:
    """NaN as 0 where nothing is known at all."""
    array = np.array(values, dtype=float)
    return np.nan_to_num(array) if np.isnan(array).all() else array


def names_of(found: dict[str, Any]) -> str:
    return ", ".join("all questions" if name == "all" else name for name in found)
