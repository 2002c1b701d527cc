"""Figures of a search: methods at equal cost, what was tried, and the schedules that came of it."""

from __future__ import annotations

from typing import Any

from ..collect import ReportData
from ..policy_tables import schedule_grid, trial_points
from ..published_curves import SCHEDULE, over_depth
from .policy import heat_map
from .svg import INK, PALETTE, draw_svg, legend_below

__all__ = ["cost_front", "found_schedule", "schedule_map", "schedules", "trials"]

RANDOM, TRIED = "#8a94a3", "#3b82f6"


def cost_front(data: ReportData, measure: str = "accuracy") -> str:
    """Accuracy against prefill FLOPs, one line a method, with 95 % intervals; the full model as a level."""
    methods: dict[str, list[dict[str, Any]]] = {}
    for row in data.equal_costs:
        methods.setdefault(row["method"], []).append(row)
    full = methods.pop("full", None)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        if full:
            axes.axhline(full[0][measure][0], color=INK, lw=1.2, ls=":", label="full model")
        for number, (method, rows) in enumerate(methods.items()):
            points = sorted((row["flops_share"], *row[measure]) for row in rows)
            spread = [[y - low for _, y, low, _ in points], [high - y for _, y, _, high in points]]
            plain = method.startswith("random")
            axes.errorbar([p[0] for p in points], [p[1] for p in points], yerr=spread, label=method, marker="o", ms=3.5,
                          lw=1.6, capsize=2, elinewidth=0.8, ls="--" if plain else "-",
                          color=RANDOM if method == "random-schedules" else PALETTE[number % len(PALETTE)])  # fmt: skip
        axes.set(xlabel="prefill FLOPs, as a share of the unpruned run", ylabel=measure)
        axes.grid(alpha=0.18, color=INK)
        legend_below(figure)

    return draw_svg(draw, f"{measure.capitalize()} at equal prefill FLOPs for searched schedules and baselines")


def schedules(data: ReportData) -> str:
    """Keep rate of each layer of the schedules that were compared, at the middle budget, beside the published one."""
    budgets = sorted({row["budget"] for row in data.equal_costs if row["method"] != "full"})
    middle = budgets[len(budgets) // 2]
    rows = [row for row in data.equal_costs if row["budget"] == middle and row["rates"]]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for number, row in enumerate(rows):
            axes.step(range(len(row["rates"])), row["rates"], where="mid", lw=1.6, label=row["method"],
                      color=PALETTE[number % len(PALETTE)])  # fmt: skip
        _published(figure, axes, len(rows[0]["rates"]))

    return draw_svg(draw, f"Keep schedules of all methods at {middle:.0%} of the prefill FLOPs")


def found_schedule(data: ReportData) -> str:
    """Keep rate of each layer of the schedule that was found, of the best random one, and of the published one."""
    found = next(row for row in reversed(data.searches) if row.get("rates"))

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        layers = range(len(found["rates"]))
        axes.step(layers, found["rates"], where="mid", lw=2, label=found["method"], color=TRIED)
        if found.get("random_rates") and found["method"] != "random":
            axes.step(layers, found["random_rates"], where="mid", lw=1.4, ls="--", label="best random schedule",
                      color=RANDOM)  # fmt: skip
        _published(figure, axes, len(layers))

    return draw_svg(draw, f"Keep schedule that {found['method']} found, beside G-Search's for LLaVA-1.5-7B")


def _published(figure: Any, axes: Any, depth: int) -> None:
    axes.plot(over_depth(SCHEDULE, depth), SCHEDULE, color=INK, lw=1, ls=":", label="published, LLaVA-1.5-7B")
    axes.set(xlabel="layer (the published one stretched to this depth)", ylabel="share of the visual tokens kept",
             ylim=(0, 1.03))  # fmt: skip
    axes.grid(alpha=0.18, color=INK)
    legend_below(figure)


def schedule_map(data: ReportData) -> str:
    """Heat map: keep rate of each layer, a row a schedule."""
    grid = schedule_grid(data)
    return heat_map(grid, f"Share of the visual tokens kept in each layer by {len(grid.rows)} schedules: "
                          f"{', '.join(grid.rows)}")  # fmt: skip


def trials(data: ReportData) -> str:
    """Everything a search tried, cost against effectiveness; hollow: stopped before all samples had run."""
    points = trial_points(data)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for complete, label in ((True, "tried"), (False, "stopped early: at most this good")):
            own = [point for point in points if point.complete == complete]
            axes.plot([p.cost for p in own], [p.effectiveness for p in own], color=TRIED, marker="o", ms=3.5, ls="",
                      label=label, alpha=0.75, markerfacecolor=TRIED if complete else "none")  # fmt: skip
        for number, found in enumerate(s for s in data.searches if "verdict" in s):
            colour = PALETTE[(number + 2) % len(PALETTE)]
            for name, verdict, marker in ((found["method"], found["verdict"], "D"),
                                          ("best random schedule", found["random"], "s")):  # fmt: skip
                axes.plot(verdict["flops_share"], verdict["effectiveness"], marker=marker, ms=8, ls="", label=name,
                          color=colour if marker == "D" else RANDOM)  # fmt: skip
        axes.axhline(1, color=INK, lw=1.2, ls=":")
        axes.set(xlabel="prefill FLOPs, as a share of the unpruned run", ylabel="as good as the full model")
        axes.grid(alpha=0.18, color=INK)
        legend_below(figure)

    return draw_svg(draw, f"Effectiveness against prefill FLOPs of {len(points)} schedules that the search tried")
