"""`lookaway eval`: a policy against the unpruned model, on the same samples."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import SettingsError
from .model_options import PublishedModel

if TYPE_CHECKING:
    from ..core.record import Sample
    from ..evaluation.runner import PairedResult


@dataclass(frozen=True, kw_only=True)
class Options(PublishedModel):
    """Evaluate a policy against the unpruned model on the same samples: accuracy, agreement, exits, cost."""

    model: str = "lookaway-mini"
    """Model folder or hub id; lookaway-mini and lookaway-mini-plain are the default models."""
    policy: str | None = None
    """Folder, hub id or YAML file of a policy, or several joined by commas: one after another (`la.chain`). Without it
    the default model's own gates."""
    exit_at: int | None = None
    """Instead of a policy: remove the visual tokens before this decoder layer."""
    data: str = "mini"
    """mini, scenes, easy-vqa, mini-hard, or a file or folder of your own (docs/data.md)."""
    tasks: str | None = None
    """Instead of --data: benchmarks of lmms-eval, joined by commas (gqa,textvqa_val,pope,...; docs/lmms-eval.md)."""
    include_path: Path | None = None
    """With --tasks: a folder of task files of your own."""
    task_defaults: bool = True
    """With --tasks: also lmms-eval's own tasks; without them only those of --include-path, which starts faster."""
    task_limit: int | None = None
    """With --tasks: at most this many questions per task."""
    split: str = "test"
    """train, calibration, test; or all of your own file."""
    limit: int | None = 500
    """At most this many samples."""
    score: str = "accuracy"
    """accuracy: by the official scorer of the data, of the samples that have answers; agreement: compared with the
    unpruned model only; or a scorer by name: exact, letters, gqa, vqa, textvqa, pope, mme, scienceqa, anls, cider."""
    curve: bool = True
    """Also evaluate every fixed exit, the oracle and random exits, from one run per sample (needs answers)."""
    baselines: bool = True
    """Also evaluate random and uniform tokens, downsampling and a fixed exit at the policy's own cost."""
    compare: tuple[str, ...] = ()
    """Other saved gates for the same model, shown at all thresholds (needs --curve)."""
    out: Path = Path("out/eval")
    """Folder of records.jsonl and report.html; an interrupted run continues from its records."""
    name: str = "policy"
    """Name of the policy in tables."""
    pictures: int = 12
    """Samples shown in the report."""
    batch_size: int = 8
    """Samples per batch."""
    max_new_tokens: int = 32
    """Longest answer, in tokens."""
    seed: int = 0
    """Seed of the data."""
    allow_other_model: bool = False
    """Use the policy although it was made for another model (other weights); the records say so."""
    fresh: bool = False
    """Start again: remove what another run left in --out."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""


OF_DATA = {
    "data": "the tasks bring their own questions",
    "split": "the tasks name their own split",
    "limit": "take --task-limit, of each task",
    "score": "each task has its own score",
    "compare": "thresholds are compared on --data",
    "max_new_tokens": "each task says how long its answers may be",
}
"""Options that --tasks has no use for, and why."""
OF_TASKS = ("include_path", "task_defaults", "task_limit")


def check_options(options: Options) -> None:
    """Refuse what the chosen kind of evaluation would leave aside without a word.

    Raises:
        SettingsError: an option is of the other kind, or --task-limit below 1.
    """
    given = {field.name for field in fields(options) if getattr(options, field.name) != field.default}
    of_data, of_tasks = [name for name in OF_DATA if name in given], [name for name in OF_TASKS if name in given]
    if options.tasks is not None and of_data:
        raise SettingsError(f"{_flag(of_data[0])} does nothing beside --tasks: {OF_DATA[of_data[0]]}.")
    if options.tasks is None and of_tasks:
        raise SettingsError(f"{_flag(of_tasks[0])} does nothing without --tasks. Name tasks, or leave it out.")
    if options.task_limit is not None and options.task_limit < 1:
        raise SettingsError(f"--task-limit must be at least 1, not {options.task_limit}.")


def _flag(name: str) -> str:
    return "--no-task-defaults" if name == "task_defaults" else f"--{name.replace('_', '-')}"


def run(options: Options) -> dict[str, Any]:
    check_options(options)
    if options.tasks is not None:
        from .eval_tasks import run_tasks

        return run_tasks(options)
    import lookaway as la

    from ..anatomy.find import anatomy_of
    from ..core.decision import Policy
    from ..core.processes import processes
    from ..core.provenance import policy_digest, provenance
    from ..core.shared_records import SharedRecords
    from ..data import load_samples
    from ..evaluation.exits import collect_outcomes
    from ..evaluation.gate_curves import write_curves, write_gates
    from ..evaluation.header import run_header
    from ..evaluation.runner import evaluate_policy, results_from_records
    from ..evaluation.scorers import SCORERS, scorer_for
    from ..evaluation.scores import own_and_truth, score_pairs
    from ..evaluation.scoring import require_an_answer
    from ..evaluation.summary import summarise
    from ..models.loading import load_model
    from ..reports.pages.page import write_report
    from .common import choose_policy, earlier_records, fit_to, short_names, tell
    from .eval_baselines import check_name, write_baselines
    from .progress import progress
    from .settings import tell_settings
    from .summary import show_summary

    check_name(options.name)
    policy = choose_policy(options.model, options.policy, options.exit_at, options.allow_other_model)
    samples = load_samples(options.data, options.split, options.limit, options.seed)
    scorer = None
    if options.score != "agreement":
        answered = require_an_answer(samples)
        scorer = scorer_for(answered, "auto" if options.score == "accuracy" else options.score)
        scorer.totals(answered, [""] * len(answered))  # what cannot be scored is refused before the model runs
    model, processor = load_model(options.model, device=options.device, **options.published)
    tell_settings(model, options.batch_size)
    records = options.out / "records.jsonl"
    policy, other = fit_to(model, policy, options.allow_other_model)
    others, anatomy = dict[str, Policy](), anatomy_of(model)
    if options.compare:
        anatomy.require_inside("--compare, which shows gates at all exits,")
    for name, folder in zip(short_names(options.compare, taken=(options.name,)), options.compare, strict=True):
        others[name], allowed = fit_to(model, la.load(folder), options.allow_other_model)
        other += allowed
    facts = provenance(
        model=model, processor=processor, policy=policy, samples=samples, options=options,
        free=("batch_size", "baselines"),
        compared={name: policy_digest(one) for name, one in others.items()},
    )  # fmt: skip
    done = results_from_records(earlier_records(records, facts, options.fresh))
    header = run_header("eval", model, options.data, options, options.seed, options.model, facts, other)
    first = processes().is_first
    with SharedRecords(records, header) as writer:
        with progress("answering with and without", len(samples)) as advance:
            results = evaluate_policy(
                model, processor, policy, samples, variant=options.name, writer=writer, done=done,
                batch_size=options.batch_size, max_new_tokens=options.max_new_tokens,
                right=scorer.right if scorer else None, progress=advance,
            )  # fmt: skip
        scores = score_pairs(scorer, samples, results) if scorer else None
        rows = summarise(results, scores)
        totals: dict[str, Any] = {}
        if scores is not None:
            totals = {"scorer": scores.scorer, "totals": scores.totals, "totals_without": scores.totals_without}
        can_exit = policy.can_exit(results[0].num_layers)
        writer.write("summary", variant=options.name, rows=[asdict(row) for row in rows], can_exit=can_exit, **totals)
        if options.baselines:
            write_baselines(
                writer, model, processor, policy, samples, results, scorer, scores, name=options.name, done=done,
                seed=options.seed, batch_size=options.batch_size, max_new_tokens=options.max_new_tokens,
            )  # fmt: skip
        if first:
            write_pictures(writer, samples, results, options.pictures)
        seen = [sample for sample in samples if sample.images and sample.answer is not None]
        if options.curve and seen and anatomy.only_before:
            tell(f"note: no curve of exits, no oracle: {anatomy.only_before}.")
        elif options.curve and seen:
            with progress("all exits of each sample", len(seen)) as advance:
                table, outcomes = collect_outcomes(
                    model, processor, seen, cache_dir=options.out / "cache", batch_size=options.batch_size,
                    max_new_tokens=options.max_new_tokens, progress=advance,
                    scores=own_and_truth(scorer or SCORERS["exact"], seen, results),
                )  # fmt: skip
            families = {sample.id: sample.family for sample in seen}
            write_curves(writer, options.name, policy, table, outcomes, [families[name] for name in table.ids])
            for name, one in others.items():
                write_gates(writer, name, one, table, outcomes)
    if not first:
        return {}
    page = write_report(records, options.out / "report.html")
    show_summary(options.name, rows, page, scores, can_exit)
    return {"summary": [asdict(row) for row in rows], **totals, "records": str(records), "report": str(page)}


def write_pictures(writer: Any, samples: list[Sample], results: list[PairedResult], count: int) -> None:
    """Thumbnails of a choice of samples: earliest and latest exits, changed answers, one of each family."""
    import base64
    import io

    from ..models.encoding import open_image

    images = {sample.id: sample.images[0] for sample in samples if len(sample.images) == 1}
    for result in chosen(results, count):
        if result.id in images:
            picture = open_image(images[result.id]).copy()
            picture.thumbnail((224, 224))
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            writer.write("picture", id=result.id, png=base64.b64encode(buffer.getvalue()).decode())


def chosen(results: list[PairedResult], count: int) -> list[PairedResult]:
    """A third of changed answers (at most), one of each family, then earliest and latest exits, no sample twice."""
    seen = [result for result in results if result.initial_visual_tokens]

    def depth(result: PairedResult) -> int:
        return result.num_layers if result.exit_layer is None else result.exit_layer

    order = [result for result in seen if not result.agree][: count // 3]
    families: dict[str | None, PairedResult] = {}
    for result in seen:
        families.setdefault(result.family, result)
    by_depth = sorted(seen, key=depth)
    ends = [end for pair in zip(by_depth, by_depth[::-1], strict=True) for end in pair]
    unique = {result.id: result for result in [*order, *families.values(), *ends]}
    return list(unique.values())[:count]
