"""Figures of a policy's results: accuracy, cost, exits, kept tokens, speed."""

from __future__ import annotations

from typing import Any

from ..collect import ReportData, changed_work, histograms
from ..policy_tables import Grid, keep_grid
from .svg import INK, PALETTE, draw_svg, legend_below

__all__ = ["exit_curves", "exit_histogram", "front", "heat_map", "keep_map", "speed"]

GATE, FIXED, ORACLE, RANDOM = "#2aa876", "#3b82f6", "#b3932b", "#8a94a3"


def exit_curves(data: ReportData) -> str:
    """Accuracy for a fixed exit at every layer, one line a family, the mean in bold."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        families = sorted(name for name in data.curves if name != "all")  # the histogram's order, so its colours
        for number, family in enumerate(families):
            curve = data.curves[family]
            heights = [point["accuracy"] for point in curve["fixed"]]
            axes.plot(curve["layers"], heights, color=PALETTE[number % len(PALETTE)], lw=1.3, label=family)
        whole = data.curves["all"]
        axes.plot(whole["layers"], [p["accuracy"] for p in whole["fixed"]], color=INK, lw=2.8, label="all questions")
        most = max(1.0, *(point["accuracy"] for point in whole["fixed"]))  # captions score up to 10
        axes.set(xlabel="visual tokens removed before layer", ylabel="accuracy", ylim=(0, 1.03 * most),
                 xlim=(0, whole["layers"][-1]))  # fmt: skip
        axes.grid(alpha=0.18, color=INK)
        legend_below(figure)

    return draw_svg(
        draw, "Accuracy against the layer before which all visual tokens are removed, for each question family"
    )


def exit_histogram(data: ReportData, variant: str) -> str:
    """At which layer samples exited, stacked by family."""
    counts = histograms(data, variant)
    depth = data.num_layers

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        base = [0] * (depth + 1)
        for number, (family, heights) in enumerate((f, h) for f, h in counts.items() if f != "all"):
            axes.bar(range(depth + 1), heights, bottom=base, color=PALETTE[number % len(PALETTE)], width=0.85,
                     label=family)  # fmt: skip
            base = [a + b for a, b in zip(base, heights, strict=True)]
        if not any(base):
            axes.bar(range(depth + 1), counts["all"], color=GATE, width=0.85)
        axes.set_axisbelow(True)
        axes.yaxis.get_major_locator().set_params(integer=True)
        ticks = [tick for tick in range(0, depth, 5) if depth - tick > 2]
        axes.set_xticks([*ticks, depth], [*map(str, ticks), "never"])
        axes.set(xlabel="layer before which the visual tokens left", ylabel="questions", xlim=(0, depth + 0.9))
        axes.grid(alpha=0.18, color=INK, axis="y")
        if len(counts) > 1:
            legend_below(figure)

    return draw_svg(draw, "Number of questions for each layer before which all of their visual tokens left")


def keep_map(data: ReportData, variant: str) -> str:
    """Heat map: share of the visual tokens that each layer still processed, a row a family."""
    grid = keep_grid(data, variant)
    return heat_map(grid, f"Share of the visual tokens that each layer processed ({variant}), for "
                          f"{', '.join(grid.rows)}; over all, {grid.mean():.0%}")  # fmt: skip


def heat_map(grid: Grid, alternative: str) -> str:
    """Rows of shares by layer, dark is 0."""
    height = min(9.0, 1.5 + 0.21 * len(grid.rows))

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        image = axes.imshow(grid.shares, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="none")
        axes.set_yticks(range(len(grid.rows)), grid.rows)
        axes.set(xlabel="layer")
        axes.xaxis.get_major_locator().set_params(integer=True)
        bar = figure.colorbar(image, ax=axes, shrink=0.9)
        bar.outline.set_visible(False)

    return draw_svg(draw, alternative, (4.6, height))


def front(data: ReportData, measure: str = "accuracy") -> str:
    """Accuracy (or agreement) against prefill FLOPs: gates at all thresholds, fixed exits, random exits, oracle."""
    curve = data.curves["all"]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        fixed = curve["fixed"]
        shares = [p["flops_share"] for p in fixed]
        axes.plot(shares, [p[measure] for p in fixed], color=FIXED, lw=1.8, marker="o", ms=3.2, label="fixed exit")
        if "random" in curve:
            rows = curve["random"]
            axes.plot([p["flops_share"] for p in rows], [p[measure] for p in rows], color=RANDOM, lw=1.4, ls="--",
                      label="random exit")  # fmt: skip
        colours = {name: GATE if not place else PALETTE[(place + 2) % len(PALETTE)]
                   for place, name in enumerate(data.fronts)}  # fmt: skip
        for variant, points in data.fronts.items():
            axes.plot([p["flops_share"] for p in points], [p[measure] for p in points], color=colours[variant], lw=2.4,
                      label=f"{variant}, any threshold")  # fmt: skip
        for variant, found in data.comparisons.items():
            axes.plot(found["policy"]["flops_share"], found["policy"][measure], color=colours.get(variant, GATE),
                      marker="D", ms=8, ls="", label=f"{variant}, chosen threshold")  # fmt: skip
        oracle = curve["oracle"]
        axes.plot(oracle["flops_share"], oracle[measure], color=ORACLE, marker="*", ms=13, ls="", label="oracle")
        axes.set(xlabel="prefill FLOPs, as a share of the unpruned run", ylabel=measure)
        axes.grid(alpha=0.18, color=INK)
        legend_below(figure)

    return draw_svg(
        draw, f"{measure.capitalize()} against prefill FLOPs for gates, fixed exits, random exits and the oracle"
    )


def speed(data: ReportData) -> str:
    """Measured against implied speed-up of the decoder's prefill, one point a variant, with quartiles; variants that
    are slower than the unpruned model are shown, too."""
    rows = [t for t in data.timings if t["part"] == "decoder" and t["implied"] is not None and changed_work(t)]
    values = [1.0, *(value for row in rows for value in (row["implied"], *row["speedup_quartiles"]))]
    low, high = 0.9 * min(values), 1.05 * max(values)
    rows.sort(key=lambda row: row["speedup"])

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot([low, high], [low, high], color=RANDOM, lw=1.2, ls="--", label="what the remaining layers imply")
        axes.axhline(1, color=INK, lw=1, ls=":", label="the full model")
        for place, row in enumerate(rows):
            first, third = row["speedup_quartiles"]
            spread = [[max(0, row["speedup"] - first)], [max(0, third - row["speedup"])]]
            axes.errorbar(row["implied"], row["speedup"], yerr=spread, color=GATE, marker="o", ms=6, capsize=3)
            close = [abs(row["speedup"] - other["speedup"]) < 0.06 * (high - low) for other in rows]
            below, above = any(close[:place]), any(close[place + 1 :])
            lift = 4 if below and not above else -10 if above and not below else -3  # names of neighbours part
            side = "right" if row["implied"] > (low + high) / 2 else "left"  # of its name: with more room
            axes.annotate(row["variant"], (row["implied"], row["speedup"]), color=INK, ha=side, fontsize=8,
                          xytext=(-8 if side == "right" else 8, lift), textcoords="offset points")  # fmt: skip
        axes.set(
            xlabel="speed-up implied by the remaining layers, timed alone",
            ylabel="measured speed-up",
            xlim=(low, high),
            ylim=(low, high),
        )
        axes.set_axisbelow(True)
        axes.grid(alpha=0.18, color=INK)
        legend_below(figure)

    return draw_svg(draw, "Measured against implied speed-up of the decoder's prefill, variant by variant")
