"""Figures of a fit: every policy that was tried, and what stands beside the chosen one at its cost."""

from __future__ import annotations

from typing import Any

from ..collect import ReportData
from ..fit_tables import by_score, fit_of, found_points, kept_of, ordered_beside, points_unit, same_interval
from .svg import INK, PALETTE, draw_svg, legend_below

__all__ = ["beside", "by_family", "fit_front"]

CHOSEN, OTHER, FAILED = "#2aa876", "#7a8b99", "#d1495b"
COLOURS = {
    "second-look": PALETTE[4], "reduction": PALETTE[0], "two-reductions": PALETTE[6], "exit": PALETTE[1],
    "before-decoder": PALETTE[3], "shapes": PALETTE[5], "own": PALETTE[10], "gates-behind": PALETTE[9],
}  # fmt: skip
FLOOR = 0.6
"""Policies with fewer unchanged answers are left out of the front where any has more: nobody would take them."""


def fit_front(data: ReportData) -> str:
    """Same answers against cost: all policies on the search split, and the tested ones, with exact intervals."""
    found = fit_of(data)
    points = found_points(found)
    floor = FLOOR if any(point.kept >= FLOOR for point in points) else 0.0
    most = 1.02 if found["unit"] != "seconds" else max([1.02, *(1.05 * p.cost for p in points)])  # some are slower
    shown = [point for point in points if point.kept >= floor and point.cost <= most]
    allowed, scored = 1 - found["options"]["epsilon"], by_score(found)
    evidence = [(row["share"], _tested(found, row)[1]) for row in found["tested"]]  # shown whatever they cost or lost
    right = max([most, *(1.02 * cost for cost, _ in evidence)])
    bottom = min([floor, allowed, *(0.98 * low for _, low in evidence)])

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        methods = sorted({p.method for p in shown}, key=lambda m: (m != "second-look", m))
        for number, method in enumerate(methods):
            own = [p for p in shown if p.method == method]
            colour = COLOURS.get(method, PALETTE[(number + 7) % len(PALETTE)])
            size, alpha = (2.2, 0.35) if method == "second-look" else (4.2, 0.85)
            axes.plot([p.cost for p in own], [p.kept for p in own], ls="", marker="o", ms=size, alpha=alpha, mew=0,
                      color=colour, label=method.replace("-", " "))  # fmt: skip
        best: list[tuple[float, float]] = []
        for point in sorted(shown, key=lambda p: (p.cost, -p.kept)):
            if not best or point.kept > best[-1][1]:
                best.append((point.cost, point.kept))
        if best:
            axes.step([*(x for x, _ in best), 1.0], [*(y for _, y in best), best[-1][1]], where="post", color=INK, lw=1,
                      alpha=0.7, label="best at each cost")  # fmt: skip
        for row in found["tested"]:
            passed = row["bound"] <= found["options"]["epsilon"]
            value, low, high = _tested(found, row)
            axes.errorbar(row["share"], value, yerr=[[value - low], [high - value]], color=CHOSEN if passed else FAILED,
                          marker="D" if passed else "X", ms=5, capsize=2.5, elinewidth=1, zorder=4)  # fmt: skip
        if found["tested"]:
            axes.plot([], [], color=CHOSEN, marker="D", ls="", label="tested, passed")
            axes.plot([], [], color=FAILED, marker="X", ls="", label="tested, failed")
        if found["certificate"] is not None:
            chosen = found["certificate"]
            axes.plot(chosen["share"], kept_of(found, chosen), marker="*", ms=15, color=CHOSEN, ls="", mec=INK, mew=0.6,
                      zorder=5, label="chosen")  # fmt: skip
        words = f"allowed: {100 * allowed:g} % {'kept' if scored else 'the same'}"
        axes.axhline(allowed, color=INK, lw=1, ls=":", label=words)
        _percent(axes, x=True, y=True)
        axes.set(xlabel=f"cost: share of the {points_unit(found)}", ylim=(bottom, 1.01), xlim=(0, right),
                 ylabel="score kept" if scored else LABELS["agreement"])  # fmt: skip
        axes.set_axisbelow(True)
        axes.grid(alpha=0.16, color=INK)
        legend_below(figure)

    words = f"{'Score kept' if scored else 'Unchanged answers'} against cost for {len(points)} policies; "
    return draw_svg(
        draw,
        f"{words}{len(points) - len(shown)} lost more than "
        f"{1 - floor:.0%} or cost more than the full model and are left out",
        (4.5, 4.0),
    )


def _tested(found: dict[str, Any], row: dict[str, Any]) -> tuple[float, float, float]:
    """What a test found, with its exact 95 % interval; of scores from the certificate's own bound up."""
    if by_score(found):
        return kept_of(found, row), min(kept_of(found, row), 1 - row["bound"]), kept_of(found, row)
    return same_interval(row["changed"], row["samples"])


def beside(data: ReportData, measure: str) -> str:
    """One line a method: its value on the held-out samples with its 95 % interval, the policy on top."""
    rows = [(name, row) for name, row in ordered_beside(data) if row[measure] is not None]
    full = rows[0][1]["accuracy_without"] if measure == "accuracy" else None

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for place, (_, row) in enumerate(rows):
            value, low, high = row[measure]
            colour = CHOSEN if place == 0 else OTHER
            axes.plot([low, high], [place, place], color=colour, lw=5, alpha=0.3, solid_capstyle="round")
            axes.plot(value, place, color=colour, marker="o", ms=7 if place == 0 else 6, ls="",
                      markerfacecolor=colour if not row["own_cost"] else "none", mew=1.6)  # fmt: skip
        if full is not None:
            axes.axvline(full[0], color=INK, lw=1, ls=":")
            axes.annotate("full model", (full[0], -0.62), ha="right", va="center", fontsize=8, color=INK,
                          xytext=(-3, 0), textcoords="offset points")  # fmt: skip
        labels = [f"{name}\n{100 * row['flops_share']:.0f} % of the FLOPs" for name, row in rows]
        axes.set_yticks(range(len(rows)), labels, fontsize=8)
        axes.set(ylim=(len(rows) - 0.5, -0.9), xlabel=LABELS[measure])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        _percent(axes, x=True)
        axes.grid(alpha=0.16, color=INK, axis="x")

    words = ", ".join(f"{name} {row[measure][0]:.1%}" for name, row in rows)
    return draw_svg(draw, f"{LABELS[measure].capitalize()} on held-out samples: {words}", (4.5, 0.9 + 0.42 * len(rows)))


LABELS = {"agreement": "answers the same as the full model's", "accuracy": "right answers"}


def by_family(data: ReportData) -> str:
    """Unchanged answers of the policy by family of questions, with 95 % intervals."""
    rows = next(iter(data.beside.values()))["families"]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for place, row in enumerate(rows):
            value, low, high = row["agreement"]
            colour = CHOSEN if place == 0 else OTHER
            axes.plot([low, high], [place, place], color=colour, lw=5, alpha=0.3, solid_capstyle="round")
            axes.plot(value, place, color=colour, marker="o", ms=6, ls="")
        axes.set_yticks(range(len(rows)), [f"{row['family']} ({row['samples']})" for row in rows], fontsize=8)
        axes.set(ylim=(len(rows) - 0.5, -0.6), xlabel=LABELS["agreement"])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        _percent(axes, x=True)
        axes.grid(alpha=0.16, color=INK, axis="x")

    words = ", ".join(f"{row['family']} {row['agreement'][0]:.1%}" for row in rows)
    return draw_svg(draw, f"Unchanged answers by family of questions: {words}", (4.5, 0.9 + 0.26 * len(rows)))


def _percent(axes: Any, x: bool = False, y: bool = False) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    for wanted, axis in ((x, axes.xaxis), (y, axes.yaxis)):
        if wanted:
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
