"""`lookaway eval --tasks`: benchmarks through lmms-eval, with the policy and without, in one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import DataError

if TYPE_CHECKING:
    from ..evaluation.lmms.run import TaskResult
    from ..evaluation.summary import SummaryRow

__all__ = ["run_tasks"]


def run_tasks(options: Any) -> dict[str, Any]:
    """Evaluate by the options of `lookaway eval`; leaves `records.jsonl`, `report.html` and lmms-eval's result files.

    Raises:
        DataError: an unknown task, data that cannot be had, or results of an earlier run in the folder.
    """
    from ..core.provenance import provenance, start_anew
    from ..core.record import RecordWriter
    from ..evaluation.header import run_header
    from ..evaluation.lmms.tasks import known_tasks, task_manager
    from ..reports.pages.page import write_report
    from .common import choose_policy, fit_to
    from .progress import progress
    from .settings import tell_settings

    policy = choose_policy(options.model, options.policy, options.exit_at, options.allow_other_model)
    manager = task_manager(options.include_path, options.task_defaults)
    names = known_tasks([name.strip() for name in str(options.tasks).split(",") if name.strip()], manager)
    records = options.out / "records.jsonl"
    if records.exists() and not options.fresh:
        raise DataError(f"{records} is of an earlier run. Give another --out, or --fresh to start anew in this one.")
    from ..evaluation.lmms.model import LookawayModel
    from ..evaluation.lmms.run import evaluate_tasks

    model = LookawayModel(options.model, device=options.device, batch_size=options.batch_size, **options.published)
    tell_settings(model.model, options.batch_size)
    policy, other = fit_to(model.model, policy, options.allow_other_model)
    with progress("questions answered without and with the policy", None) as model.progress:
        results = evaluate_tasks(
            model, policy, names, manager, out=options.out, variant=options.name, limit=options.task_limit
        )
    if model.rank:
        return {}
    rows = _rows(results)
    facts = provenance(
        model=model.model, processor=model.processor, policy=policy, options=options, harness=f"lmms-eval {_version()}",
        questions={result.task: result.documents for result in results},
    )  # fmt: skip
    header = run_header("eval", model.model, str(options.tasks), options, options.seed, options.model, facts, other)
    start_anew(records)  # only now: a failed run leaves the earlier one's results
    with RecordWriter(records) as writer:
        writer.write("run", **header)
        for result in results:
            for pair in result.pairs:
                writer.write("sample", **asdict(pair))
            figures = {name: list(values) for name, values in result.figures.items()}
            writer.write("task", task=result.task, variant=options.name, figures=figures, efficiency=result.efficiency)
        can_exit = policy.can_exit(next(pair.num_layers for result in results for pair in result.pairs))
        writer.write("summary", variant=options.name, rows=[asdict(row) for row in rows], can_exit=can_exit)
    page = write_report(records, options.out / "report.html")
    _show(options.name, results, rows, page, can_exit)
    tasks = {result.task: result.figures for result in results}
    return {"tasks": tasks, "summary": [asdict(row) for row in rows], "records": str(records), "report": str(page)}


def _rows(results: Sequence[TaskResult]) -> list[SummaryRow]:
    """One row a task by its own metric; the row 'all' over the questions of all tasks that have one."""
    from ..evaluation.scores import PairedScores
    from ..evaluation.summary import summarise

    scored = [(result, result.scores) for result in results if result.scores is not None]
    pairs = [pair for result, _ in scored for pair in result.pairs] or [p for result in results for p in result.pairs]
    together = None
    if scored:
        with_policy = [score for _, scores in scored for score in scores.with_policy]
        without = [score for _, scores in scored for score in scores.without]
        together = PairedScores("tasks", with_policy, without, {}, {})
    rows = summarise(pairs, together)[:1]
    return rows + [replace(summarise(r.pairs, r.scores)[0], family=r.task) for r in results]


def _show(name: str, results: Sequence[TaskResult], rows: Sequence[SummaryRow], page: Path, can_exit: bool) -> None:
    from .summary import show_summary
    from .tables import show_table

    figures = [
        (result.task, figure, f"{without:.4g}", f"{value:.4g}")
        for result in results
        for figure, (without, value) in result.figures.items()
    ]
    show_table(("task", "metric", "without", "with"), figures, title=name, texts=("task", "metric"))
    show_summary(name, rows, page, can_exit=can_exit)


def _version() -> str:
    from importlib.metadata import version

    return version("lmms-eval")
