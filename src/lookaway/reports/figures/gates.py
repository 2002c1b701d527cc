"""Figures of gates: what they were taught, and what each threshold would have done to the calibration samples."""

from __future__ import annotations

from typing import Any

from ..collect import ReportData
from ..policy_tables import calibration_curve, good_shares
from .svg import INK, draw_svg, legend_below

__all__ = ["calibration", "labels"]

CHANGED, BOUND, MEAN = "#2aa876", "#e07b39", "#3b82f6"


def calibration(data: ReportData, place: int) -> str:
    """Changed answers and their exact upper bound by threshold, and below it the mean exit."""
    curve = calibration_curve(data.calibrations[place])

    def draw(figure: Any) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        places = range(len(curve.thresholds))
        upper.plot(places, curve.changed, color=CHANGED, lw=2, marker="o", ms=3.5, label="answers changed")
        upper.plot(places, curve.bounds, color=BOUND, lw=2, marker="o", ms=3.5, label="exact upper bound")
        upper.axhline(curve.allowed, color=INK, lw=1.2, ls=":", label="allowed")
        upper.set(ylabel="share of answers")
        upper.set_ylim(bottom=0)
        lower.plot(places, curve.mean_exits, color=MEAN, lw=2, marker="o", ms=3.5, label="mean exit layer")
        lower.set(ylabel="mean exit", xlabel="threshold, from safest to boldest")
        step = -(-len(curve.thresholds) // 4)
        lower.set_xticks(list(places)[::step], [f"{t:.4g}" for t in curve.thresholds[::step]])
        for axes in (upper, lower):
            axes.grid(alpha=0.18, color=INK)
            if curve.chosen is not None:
                axes.axvline(curve.chosen, color=INK, lw=1.2, label="chosen" if axes is upper else None)
        legend_below(figure)

    chosen = "none is chosen" if curve.chosen is None else f"{curve.thresholds[curve.chosen]:.4g} is chosen"
    words = f"Changed answers, their upper bound and the mean exit of {len(curve.thresholds)} thresholds; {chosen}, at "
    return draw_svg(draw, f"{words}most {curve.allowed:.1%} may change (calibration {place + 1})")


def labels(data: ReportData, place: int) -> str:
    """Share of the training samples for which an exit before each layer is good."""
    layers, shares = good_shares(data.trainings[place])

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot(layers, shares, color=CHANGED, lw=2, marker="o", ms=4)
        axes.set(xlabel="exit before layer", ylabel="samples for which that is good", ylim=(0, 1.03))
        axes.grid(alpha=0.18, color=INK)

    return draw_svg(draw, f"Share of training samples for which an exit before each gated layer is good, from "
                          f"{shares[0]:.0%} to {shares[-1]:.0%} (training {place + 1})")  # fmt: skip
