"""`lookaway eval --tasks`: benchmarks through lmms-eval, with the policy and without, in one run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import DataError, LookawayError

if TYPE_CHECKING:
    from ..core.decision import Policy
    from ..core.record import RecordWriter
    from ..evaluation.beside import Baseline
    from ..evaluation.lmms.run import TaskResult, TaskRuns
    from ..evaluation.runner import PairedResult
    from ..evaluation.scores import PairedScores
    from ..evaluation.statistics import Estimate
    from ..evaluation.summary import SummaryRow

__all__ = ["run_tasks"]


def run_tasks(options: Any) -> dict[str, Any]:
    """Evaluate by the options of `lookaway eval`; leaves `records.jsonl`, `report.html` and lmms-eval's result files.

    Answers are kept in `cache/` as they are made, so that the same command goes on after a kill.

    Raises:
        DataError: an unknown task, or data that cannot be had.
        StaleResults: the folder holds results of another model, policy or version.
    """
    from ..core.earlier_results import start_anew
    from ..core.files import atomic_path
    from ..core.provenance import provenance
    from ..core.record import RecordWriter
    from ..evaluation.header import run_header
    from ..evaluation.lmms.answers import KnownAnswers, answer_files
    from ..evaluation.lmms.tasks import known_tasks, task_manager
    from ..reports.pages.page import write_report
    from .common import choose_policy, fit_to
    from .eval_baselines import Beside, check_name
    from .progress import progress
    from .settings import tell_settings

    check_name(options.name)
    policy = choose_policy(options.model, options.policy, options.exit_at, options.allow_other_model)
    manager = task_manager(options.include_path, options.task_defaults)
    names = known_tasks([name.strip() for name in str(options.tasks).split(",") if name.strip()], manager)
    records, cache = options.out / "records.jsonl", options.out / "cache"
    if records.exists() and not answer_files(cache) and not options.fresh:
        raise DataError(f"{records} is of an earlier run. Give another --out, or --fresh to start anew in this one.")
    from ..evaluation.lmms.model import LookawayModel
    from ..evaluation.lmms.run import TaskRuns

    model = LookawayModel(options.model, device=options.device, batch_size=options.batch_size, **options.published)
    tell_settings(model.model, options.batch_size)
    policy, other = fit_to(model.model, policy, options.allow_other_model)
    own: dict[str, Any] = {
        "model": model.model, "processor": model.processor, "policy": policy, "harness": f"lmms-eval {_version()}",
    }  # fmt: skip

    def header(facts: Any) -> dict[str, Any]:
        return run_header("eval", model.model, str(options.tasks), options, options.seed, options.model, facts, other)

    if options.fresh:
        model.group.first(lambda: start_anew(*answer_files(cache)))
    asked = {"conversation": options.conversation}  # all else that answers depend on is in each answer's own key
    model.known = KnownAnswers(cache, header(provenance(**own, options=asked)), model.group)
    runs = TaskRuns(model, names, manager, out=options.out, limit=options.task_limit)
    with progress("questions answered without and with the policy", None) as model.progress:
        results = runs.run(policy, options.name)
    found = list(_beside(runs, results, policy, options)) if options.baselines else []
    model.known.close()
    if model.rank:
        return {}
    _remove_others(options.out, {kind for kind, _, _ in found})
    facts = provenance(
        **own, options=options, free=("baselines", "batch_size"),
        questions={result.task: result.documents for result in results},
    )  # fmt: skip
    rows = _rows(results)
    depth = next(pair.num_layers for result in results for pair in result.pairs)
    with atomic_path(records) as temporary, RecordWriter(temporary) as writer:
        writer.write("run", **header(facts))
        for result in results:
            _write_task(writer, options.name, result)
        summary = [asdict(row) for row in rows]
        writer.write("summary", variant=options.name, rows=summary, can_exit=policy.can_exit(depth))
        beside = Beside(writer, options.name)
        for kind, baselines, theirs in found:
            for result in theirs:
                _write_task(writer, kind, result)
            each = {task: {"name": one.name, "own_cost": one.own_cost} for task, one in baselines.items()}
            one = next(iter(baselines.values()))
            shown = replace(one, name=kind, own_cost=any(other.own_cost for other in baselines.values()))
            beside.add(shown, _rows(theirs), depth, _hard(kind, results, theirs), tasks=each)
    page = write_report(records, options.out / "report.html")
    _show(options.name, results, rows, page, policy.can_exit(depth))
    tasks = {result.task: result.figures for result in results}
    return {"tasks": tasks, "summary": summary, "records": str(records), "report": str(page)}


def _remove_others(out: Path, shown: Collection[str]) -> None:
    """Result files of baselines that this run did not ask are of an earlier run, perhaps of other questions."""
    from ..evaluation.beside import DOWNSAMPLING, FIXED_EXIT
    from ..evaluation.lmms.run import result_file
    from ..evaluation.token_baselines import NAMES

    for kind in {*NAMES.values(), DOWNSAMPLING, FIXED_EXIT} - set(shown):
        result_file(out, kind).unlink(missing_ok=True)


def _beside(
    runs: TaskRuns, results: Sequence[TaskResult], policy: Policy, options: Any
) -> Iterator[tuple[str, dict[str, Baseline], list[TaskResult]]]:
    """(kind, what it is in each task, results) of the baselines that this model can run."""
    from ..anatomy.find import anatomy_of
    from ..evaluation.beside import at_cost
    from .common import tell
    from .eval_baselines import same_policy
    from .progress import progress

    anatomy = anatomy_of(runs.model.model)

    def choose(pairs: Sequence[PairedResult]) -> list[Baseline]:
        return [one for one in at_cost(pairs, anatomy, options.seed) if not same_policy(one.policy, policy)]

    with progress("questions answered by what stands beside it", None) as runs.model.progress:
        for kind, baselines, theirs in runs.beside(results, choose):
            if isinstance(theirs, LookawayError):  # not every method fits every model
                tell(f"note: {kind} is not shown beside the policy: {theirs}")
            else:
                yield kind, baselines, theirs


def _write_task(writer: RecordWriter, variant: str, result: TaskResult) -> None:
    for pair in result.pairs:
        writer.write("sample", **asdict(pair))
    figures = {name: list(values) for name, values in result.figures.items()}
    writer.write("task", task=result.task, variant=variant, figures=figures, efficiency=result.efficiency)


def _hard(kind: str, results: Sequence[TaskResult], theirs: Sequence[TaskResult]) -> tuple[int, Estimate] | None:
    """How the policy does where a baseline is not enough, over all tasks that score single questions."""
    from ..evaluation.beside import shows_what_is_hard
    from ..evaluation.token_baselines import hard_questions

    tasks = {result.task for result in theirs}
    pairs, own = _together([result for result in results if result.task in tasks])
    _, scores = _together(theirs)
    return hard_questions(pairs, own, scores) if own and scores and shows_what_is_hard(kind) else None


def _together(results: Sequence[TaskResult]) -> tuple[list[PairedResult], PairedScores | None]:
    """The questions of all tasks that score single ones, with their scores; all questions where no task does."""
    from ..evaluation.scores import PairedScores

    scored = [(result, result.scores) for result in results if result.scores is not None]
    if not scored:
        return [pair for result in results for pair in result.pairs], None
    with_policy = [score for _, scores in scored for score in scores.with_policy]
    without = [score for _, scores in scored for score in scores.without]
    return [pair for result, _ in scored for pair in result.pairs], PairedScores("tasks", with_policy, without, {}, {})


def _rows(results: Sequence[TaskResult]) -> list[SummaryRow]:
    """One row a task by its own metric; the row 'all' over the questions of all tasks that have one."""
    from ..evaluation.summary import summarise

    rows = summarise(*_together(results))[:1]
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
