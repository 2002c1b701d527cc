"""A search of attentions to skip: its scores over time, and its set beside the baselines'."""

from __future__ import annotations

from typing import Any

from ..collect import ReportData, skip_search
from .svg import INK, PALETTE, draw_svg

__all__ = ["skip_rows", "skip_scores", "skip_sets"]


def skip_scores(data: ReportData) -> str:
    """The score of each attention after every update; those that are skipped in colour."""
    found = skip_search(data)
    assert found is not None
    arms, skipped = [int(arm) for arm in found["scores"]], found["skipped"]
    steps = [update["step"] for update in data.skip_updates]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for place, arm in enumerate(arms):
            heights = [update["scores"][place] for update in data.skip_updates]
            if arm in skipped:
                colour = PALETTE[skipped.index(arm) % len(PALETTE)]
                axes.plot(steps, heights, color=colour, lw=1.8, label=f"layer {arm}", zorder=3)
            else:
                axes.plot(steps, heights, color=INK, lw=0.7, alpha=0.35)
        axes.set(xlabel="step of the search", ylabel="score (higher: needed less)")
        axes.grid(alpha=0.18, color=INK)
        figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)

    return draw_svg(draw, "Score of each attention over the steps of the skip search, those to be skipped in colour")


def skip_sets(data: ReportData) -> str:
    """Loss of the searched set, the baselines' and nothing skipped, one bar each."""
    found = skip_search(data)
    assert found is not None
    rows = found["baselines"]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        names = [row["name"] for row in rows][::-1]
        colours = [PALETTE[0] if name.startswith("searched") else "#8a94a3" for name in names]
        axes.barh(names, [row["loss"] for row in rows][::-1], color=colours, height=0.7)
        axes.set(xlabel="loss of the right answers (nats a token); left is better")
        axes.grid(alpha=0.18, color=INK, axis="x")

    return draw_svg(draw, f"Loss with {len(found['skipped'])} attentions skipped, for the searched set and baselines")


def skip_rows(data: ReportData) -> list[list[str]]:
    """Cells of the table of skip sets; none where no search was compared."""
    found = skip_search(data)
    return [
        [
            row["name"],
            " ".join(map(str, row["layers"])) or "–",
            "{:.1f} % ({:.1f} to {:.1f})".format(*(100 * value for value in row["accuracy"])),
            f"{row['loss']:.3f}",
            f"{row['p_full']:.3f}",
        ]
        for row in (found["baselines"] if found else [])
    ]
