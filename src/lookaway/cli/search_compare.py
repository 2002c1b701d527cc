"""`lookaway search --compare`: every method at every budget, judged on samples that no search saw."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..search.schedules.g_search import GSearchOptions
from ..search.schedules.p_sigmoid import PSigmoidOptions

if TYPE_CHECKING:
    from .search_options import Options

__all__ = ["compare_all", "parts"]


def compare_all(
    options: Options, model: Any, processor: Any, evaluator: Any, queue: Any, samples: Any, test: Any, facts: Any
) -> dict[str, Any]:
    """Search at each budget on the calibration samples, evaluate on the test samples, write records and page."""
    from dataclasses import asdict

    from ..core.errors import SettingsError
    from ..core.files import atomic_path
    from ..core.record import RecordWriter
    from ..evaluation.header import run_header
    from ..reports.pages.page import write_report
    from ..search.schedules.budget import Budget
    from ..search.schedules.compare import HeldOutEvaluator, compare
    from ..search.schedules.g_search import g_search
    from ..search.schedules.methods import METHODS, entries_at
    from ..search.trials.samples import fingerprint
    from .common import plain_console, print_note
    from .progress import progress

    sigmoid, greedy_options = parts(options)
    methods, console = options.methods or tuple(METHODS), plain_console(stderr=True)
    budgets, notes = [], []
    for share in options.budgets:
        try:
            budgets.append(Budget(share, "flops", evaluator.workload, evaluator.span))
        except SettingsError as error:
            notes.append(f"Left out: {error}")
            print_note(console, notes[-1])
    entries: list[Any] = []
    searched = sum(method in ("p-sigmoid", "random-schedules") for method in methods) * options.trials * len(budgets)
    with progress("trials (calibration samples)", searched or None) as advance:
        greedy = g_search(evaluator, queue, greedy_options) if "g-search" in methods and budgets else None
        for budget in budgets:
            entries += entries_at(evaluator, queue, budget, methods, sigmoid, greedy, lambda done: advance(1))
    with progress("full runs (test samples)", len(test)) as advance:
        held_out = HeldOutEvaluator(
            model,
            processor,
            test,
            batch_size=options.batch_size,
            max_new_tokens=options.max_new_tokens,
            first_layer=options.first_layer,
            memory=int(options.memory * 2**30),
            progress=advance,
        )
    try:
        with progress("methods (test samples)", len(entries) + 1) as advance:
            rows = compare(held_out, queue, entries, lambda done: advance(1))
    finally:
        held_out.close()
    records = options.out / "records.jsonl"
    with atomic_path(records) as temporary, RecordWriter(temporary) as writer:
        writer.write("run", **run_header("search", model, options.data, options, options.seed, options.model, facts))
        for done in queue.log():
            writer.write("trial", **done.record())
        writer.write("search", method="compare", notes=notes, fingerprint=fingerprint(samples),
                     test_fingerprint=fingerprint(test), samples=[sample.id for sample in samples],
                     test_samples=[sample.id for sample in test],
                     work={**asdict(evaluator.work), "ratio": evaluator.work.ratio})  # fmt: skip
        for row in rows:
            writer.write("equal-cost", **asdict(row))
    page = write_report(records, options.out / "report.html")
    _show_rows(rows, page)
    return {"rows": [asdict(row) for row in rows], "notes": notes, "records": str(records), "report": str(page)}


def parts(options: Options) -> tuple[PSigmoidOptions, GSearchOptions]:
    """The options of the two searches among those of the command."""
    return (
        PSigmoidOptions(**{field.name: getattr(options, field.name) for field in fields(PSigmoidOptions)}),
        GSearchOptions(**{field.name: getattr(options, field.name) for field in fields(GSearchOptions)}),
    )


def _show_rows(rows: Any, page: Path) -> None:
    from .common import plain_console
    from .tables import show_table

    columns = ("method", "budget", "FLOPs", "right (95 %)", "same answer", "visual tokens", "KV MiB", "trials")
    cells = []
    for row in sorted(rows, key=lambda row: (-row.budget, row.accuracy.value)):
        cells.append((row.method, f"{row.budget:.0%}", f"{row.flops_share:.1%}",
                      f"{row.accuracy.value:.1%} ({100 * row.accuracy.low:.0f}–{row.accuracy.high:.0%})",
                      f"{row.agreement.value:.1%}", f"{row.visual_tokens:.1f}", f"{row.kv_bytes / 2**20:.2f}",
                      str(row.trials or "–")))  # fmt: skip
    console = plain_console()
    show_table(columns, cells, console=console)
    console.print(f"report: {page}")
