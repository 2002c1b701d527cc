"""The short table of a paired evaluation, as `eval` and `eval --tasks` print it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .common import plain_console
from .tables import show_table

if TYPE_CHECKING:
    from ..evaluation.scores import PairedScores
    from ..evaluation.summary import SummaryRow

__all__ = ["show_summary"]


def show_summary(
    name: str, rows: Sequence[SummaryRow], page: Path, scores: PairedScores | None = None, can_exit: bool = True
) -> None:
    """The short table of a paired evaluation, and the task's own figures where it has more than an accuracy.

    Counts that say nothing new, exits of a policy that has none and accuracies of questions without answers are left
    out.
    """
    cells = {
        "family": [row.family for row in rows],
        "n": [str(row.samples) for row in rows],
        "images": [str(row.images) for row in rows],
        "with an answer": [str(row.scored) for row in rows],
        "right without": [_share(row.accuracy_without) for row in rows],
        "right with": [_share(row.accuracy_with) for row in rows],
        "same answer": [_share(row.agreement.value) for row in rows],
        "mean exit": ["–" if row.mean_exit is None else f"{row.mean_exit:.1f}" for row in rows],
        "visual tokens": [
            _share(row.visual_tokens / row.full_visual_tokens if row.full_visual_tokens else None) for row in rows
        ],
        "FLOPs": [_share(row.flops_share) for row in rows],
        "KV": [_share(row.kv_share) for row in rows],
    }
    if not any(row.scored for row in rows):
        left_out = {"with an answer", "right without", "right with"}
    else:
        left_out = {"with an answer"} if all(row.scored == row.samples for row in rows) else set()
    left_out |= {"images"} if all(row.images == row.samples for row in rows) else set()
    left_out |= set() if can_exit else {"mean exit"}
    columns = [column for column in cells if column not in left_out]
    console = plain_console()
    table = list(zip(*(cells[column] for column in columns), strict=True))
    show_table(columns, table, title=name, texts=("family",), console=console)
    if scores is not None and len(scores.totals) > 1:
        totals = [(figure, f"{scores.totals_without[figure]:.3f}", f"{value:.3f}")
                  for figure, value in scores.totals.items()]  # fmt: skip
        show_table((scores.scorer, "without", "with"), totals, console=console)
    console.print("Shares of visual tokens a layer, prefill FLOPs and KV cache are of the run without a policy.")
    console.print(f"report: {page}", soft_wrap=True)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
