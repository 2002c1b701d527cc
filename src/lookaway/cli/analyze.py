"""`lookaway analyze`: where a model looks, in which layers that matters, and when it stops mattering."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .model_options import PublishedModel

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Options(PublishedModel):
    """Study in which layers a model uses its image: attention, knockouts, exits at every layer, rank stability."""

    model: str = "lookaway-mini"
    """Model folder or hub id; lookaway-mini and lookaway-mini-plain are the default models."""
    data: str = "mini"
    """mini, scenes, easy-vqa, or a file or folder of your own (docs/data.md)."""
    split: str = "test"
    """train, calibration, test; or all of your own file."""
    limit: int | None = 60
    """At most this many samples; those without an image are left out."""
    policy: str | None = None
    """Folder or hub id of a saved policy: also show its exits, and its answers with and without it."""
    exit_at: int | None = None
    """Instead of a policy: remove the visual tokens before this decoder layer."""
    name: str = "policy"
    """Name of the policy in tables."""
    records: tuple[Path, ...] = ()
    """Further records.jsonl of the same model and data (train, search, eval, bench), shown in the same report."""
    window: int = 0
    """Layers that a knockout blocks together; 0: a sixth of the depth."""
    entropy_exits: tuple[int, ...] = ()
    """Exits for which the attention of the text left is measured; default: 1/4, 1/2 and 3/4 of the depth."""
    top_share: float = 0.25
    """Share of the visual tokens whose overlap between layers is counted."""
    pictures: int = 12
    """Samples shown in the report."""
    max_new_tokens: int = 32
    """Longest answer, in tokens."""
    out: Path = Path("out/analyze")
    """Folder of records.jsonl and report.html; an interrupted run continues from its records."""
    seed: int = 0
    """Seed of the data."""
    allow_other_model: bool = False
    """Use the policy although it was made for another model (other weights); the records say so."""
    fresh: bool = False
    """Start again: remove what another run left in --out."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""


def run(options: Options) -> dict[str, Any]:
    from ..analysis.collect import StudyOptions, study
    from ..analysis.findings import write_findings
    from ..analysis.pictures import write_looks
    from ..core.errors import DataError
    from ..core.processes import processes
    from ..core.provenance import provenance
    from ..core.shared_records import SharedRecords
    from ..data import load_samples
    from ..evaluation.header import run_header
    from ..evaluation.scorers import right_by_its_scorer
    from ..models.loading import load_model
    from ..reports.collect import collect
    from ..reports.pages.findings_text import conclusions
    from ..reports.pages.page import write_report
    from .common import choose_policy, earlier_records, fit_to, plain_console
    from .progress import progress
    from .settings import tell_settings

    settings = StudyOptions(options.window, options.entropy_exits, options.top_share, options.max_new_tokens)
    samples = [s for s in load_samples(options.data, options.split, options.limit, options.seed) if s.images]
    if not samples:
        raise DataError(f"No sample of {options.data} ({options.split}) has an image, so there is no looking to study.")
    records = options.out / "records.jsonl"
    policy, other = None, list[str]()
    if options.policy is not None or options.exit_at is not None:
        policy = choose_policy(options.model, options.policy, options.exit_at, options.allow_other_model)
    model, processor = load_model(options.model, device=options.device, **options.published)
    tell_settings(model)
    if policy is not None:
        policy, other = fit_to(model, policy, options.allow_other_model)
    facts = provenance(model=model, processor=processor, policy=policy, samples=samples, options=options)
    done = earlier_records(records, facts, options.fresh)
    header = run_header("analyze", model, options.data, options, options.seed, options.model, facts, other)
    first = processes().is_first
    with SharedRecords(records, header) as writer:
        if options.records:
            processes().first(
                lambda: _joined([records, *options.records])
            )  # refuses other models and data before hours of work, not after
        exits = None if policy is None else _policy_exits(options, model, processor, policy, samples, writer, done)
        with progress("probing one sample at a time", len(samples)) as advance:
            found = study(model, processor, samples, settings, writer=writer, done=done, right=right_by_its_scorer,
                          progress=advance)  # fmt: skip
        if first:
            write_findings(writer, found)
            write_looks(writer, processor, samples, found, exits, options.pictures, policy is not None)
    if not first:
        return {}
    page = write_report([*map(str, options.records), str(records)], options.out / "report.html")
    words = conclusions(collect(records))
    _show(plain_console(), words, page)
    return {"conclusions": words, "records": str(records), "report": str(page)}


def _joined(files: list[Path]) -> None:
    """Refuse records of another model or other data."""
    from ..reports.collect import collect

    collect(files)


def _policy_exits(
    options: Options, model: Any, processor: Any, policy: Any, samples: Any, writer: Any, done: Any
) -> dict[str, int | None] | None:
    """Sample id -> layer before which all of its visual tokens left; None for a policy that never removes them all."""
    from dataclasses import asdict

    from ..evaluation.runner import evaluate_policy, results_from_records
    from ..evaluation.scorers import right_by_its_scorer
    from ..evaluation.summary import summarise
    from .progress import progress

    with progress("answering with and without", len(samples)) as advance:
        results = evaluate_policy(
            model, processor, policy, samples, variant=options.name, writer=writer, done=results_from_records(done),
            max_new_tokens=options.max_new_tokens, right=right_by_its_scorer, progress=advance,
        )  # fmt: skip
    can_exit = policy.can_exit(results[0].num_layers)
    rows = [asdict(row) for row in summarise(results)]
    writer.write("summary", variant=options.name, rows=rows, can_exit=can_exit)
    return {result.id: result.exit_layer for result in results} if can_exit else None


def _show(console: Console, words: list[str], page: Path) -> None:
    for line in words:
        console.print(f"- {line}")
    console.print(f"report: {page}")
