"""What several commands share: which policy is meant, progress bars, resuming, tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ..core.errors import DataError

if TYPE_CHECKING:
    from ..core.decision import Policy
    from ..evaluation.runner import PairedResult
    from ..evaluation.scores import PairedScores
    from ..evaluation.summary import SummaryRow

__all__ = ["cache_folder", "choose_policy", "earlier_results", "progress", "show_summary"]


def choose_policy(model: str, policy: str | None, exit_at: int | None) -> Policy:
    """The policy that --policy or --exit-at names; for the default models their own gates where neither is given.

    Several policies, joined by commas, are one after another (`la.chain`).
    """
    import lookaway as la

    if policy is not None and exit_at is not None:
        raise DataError(f"Give either --policy ({policy}) or --exit-at ({exit_at}), not both.")
    if exit_at is not None:
        return la.ExitAt(exit_at)
    if policy is not None:
        return load_policies(policy)
    if model.startswith("lookaway-mini"):
        from ..models.mini.model import shipped_gates

        return la.load(shipped_gates(model))
    raise DataError("No policy: give --policy DIR (from `lookaway train`) or --exit-at LAYER.")


def load_policies(policy: str) -> Policy:
    """'a' -> that policy; 'a,b' -> one after the other."""
    from ..policies import load_chain

    return load_chain(_several(policy))


def _several(policy: str) -> list[str]:
    """'a' -> ['a']; 'a,b' -> ['a', 'b'], but for a path that has a comma in its name."""
    return [policy] if Path(policy).exists() else [part.strip() for part in policy.split(",")]


def cache_folder() -> Path:
    """Where features and labels are kept; files are named by what they hold, so nothing stale is ever read."""
    from ..core.files import cache_root

    return cache_root() / "tables"


@contextmanager
def progress(words: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; yields what advances it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(words, total=total)
        yield lambda count: bar.advance(task, count)


def earlier_results(records: Path, options: Any) -> list[PairedResult]:
    """Results that an interrupted run of the same job left in its records.

    Raises:
        DataError: the records are of another job; nothing of them is overwritten.
    """
    import json
    from dataclasses import asdict

    from ..core.record import RecordWriter, read_records
    from ..evaluation.runner import results_from_records

    if not records.exists():
        return []
    RecordWriter(records).close()  # drops a line that a kill cut short
    found = list(read_records(records))
    plain = json.loads(json.dumps(asdict(options), default=str))  # as the header holds it
    ours = {key: value for key, value in plain.items() if key not in FREE}
    for record in found:
        theirs = {key: value for key, value in record.get("options", {}).items() if key not in FREE}
        if record["kind"] == "run" and theirs != ours:
            differs = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
            raise DataError(
                f"{records} is of another run (different: {', '.join(differs)}). Give another --out, or remove it."
            )
    return results_from_records(found)


FREE = ("out", "batch_size", "device", "pictures", "curve", "records")
"""Options that may change when an interrupted run goes on."""


def show_summary(name: str, rows: Sequence[SummaryRow], page: Path, scores: PairedScores | None = None) -> None:
    """The short table of a paired evaluation, and the task's own figures where it has more than an accuracy."""
    columns = ("family", "n", "images", "without", "with", "same answer", "mean exit", "FLOPs", "KV")
    table = Table(*columns, box=None, title=name)
    for row in rows:
        table.add_row(
            row.family, str(row.samples), str(row.images), _share(row.accuracy_without), _share(row.accuracy_with),
            _share(row.agreement.value), "–" if row.mean_exit is None else f"{row.mean_exit:.1f}",
            _share(row.flops_share), _share(row.kv_share),
        )  # fmt: skip
    console = Console()
    console.print(table)
    if scores is not None and len(scores.totals) > 1:
        own = Table(scores.scorer, "without", "with", box=None)
        for figure, value in scores.totals.items():
            own.add_row(figure, f"{scores.totals_without[figure]:.3f}", f"{value:.3f}")
        console.print(own)
    console.print(f"report: {page}", highlight=False)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
