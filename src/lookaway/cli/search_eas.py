"""`lookaway search --method eas`: the attentions that a task needs least, beside baselines of the same size."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ..core.errors import SettingsError
from ..search.skips.search import SkipSearchOptions
from .model_options import PublishedModel


@dataclass(frozen=True, kw_only=True)
class Options(SkipSearchOptions, PublishedModel):
    """Search the attentions that your data needs least (EAS). The same command continues after a kill; torchrun
    spreads it over processes."""

    method: Literal["eas"] = "eas"
    """What is searched; eas: attentions to skip (docs/methods/eas.md); all others: keep schedules."""
    model: str = "lookaway-mini-plain"
    """Model folder or hub id; lookaway-mini and lookaway-mini-plain are the default models."""
    data: str = "mini"
    """mini, scenes, easy-vqa, or a file or folder of your own with answers (docs/data.md)."""
    split: str = "calibration"
    """calibration; or train, or all of your own file, where the test samples are in another file."""
    limit: int | None = 400
    """At most this many samples; those without an image are left out."""
    compare: bool = True
    """Compare the set with a ranking without training, the last layers and random sets, on held-out samples."""
    judged: int = 64
    """Samples of the split held out for that: half for the ranking, half to evaluate all sets."""
    random_sets: int = 5
    """Random sets among them."""
    adapters: bool = True
    """Save the trained adapters with the set, to be used or trained further; off: the set alone."""
    out: Path = Path("skip")
    """Folder for the policy, its records.jsonl and the search's state."""
    fresh: bool = False
    """Start again: remove what another run left in --out."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""

    def __post_init__(self) -> None:
        SkipSearchOptions.__post_init__(self)
        if self.judged < 2 or self.random_sets < 0:
            raise SettingsError("--judged must be at least 2, --random-sets at least 0.")


def run(options: Options) -> dict[str, Any]:
    from ..anatomy.find import anatomy_of
    from ..core.earlier_results import start_anew
    from ..core.provenance import provenance
    from ..data import load_samples
    from ..evaluation.header import run_header
    from ..models.loading import load_model
    from ..policies.attention_skip import AttentionSkip
    from ..reports.pages.page import write_report
    from ..search.schedules.session import check_out
    from ..search.skips.compare import STATE, compare_skips
    from ..search.skips.search import search_skips
    from ..search.skips.supernet import processes
    from ..search.trials.samples import fingerprint, with_images
    from .progress import progress
    from .settings import tell_settings

    # 1. What can be refused without a model.
    check_out(options.out)
    samples = with_images(load_samples(options.data, options.split, options.limit, options.seed))
    kept = options.judged if options.compare else 0
    if kept and len(samples) < 2 * kept:
        raise SettingsError(
            f"{len(samples)} samples, of which {kept} would be kept apart to judge the sets: at least {2 * kept} are "
            "needed. Give more samples, a smaller --judged, or --no-compare."
        )
    ranks = processes(cpu=True if options.device == "cpu" else None)
    # 2. The search.
    model, processor = load_model(options.model, device=options.device, **options.published)
    tell_settings(model, options.reward_batch, "--reward-batch")
    chosen = SkipSearchOptions(**{field.name: getattr(options, field.name) for field in fields(SkipSearchOptions)})
    with progress("steps of the search", options.steps) as advance:
        found = search_skips(model, processor, samples[kept:], options.out, chosen, progress=advance,
                            fresh=options.fresh)  # fmt: skip
    if not ranks.is_main_process:
        return {"skipped": list(found.layers)}
    adapters = found.adapters.cpu() if found.adapters is not None else None
    policy = AttentionSkip(found.layers, adapters, anatomy_of(model).identity, found.summary)
    # 3. Beside sets that cost nothing to find.
    summary = {**found.summary, "fingerprint": fingerprint(samples), "baselines": [], "changes": {}}
    if kept:
        if options.fresh:
            start_anew(options.out / STATE)
        facts = provenance(model=model, processor=processor, policy=policy, samples=samples[:kept],
                           options=chosen.filled(), random=options.random_sets, free=("save_steps",))  # fmt: skip
        with progress("sets judged", 4 + options.random_sets + 1 + (adapters is not None)) as advance:
            verdicts, changes = compare_skips(
                model, processor, samples[:kept], policy, options.out, facts, random_sets=options.random_sets,
                batch_size=options.reward_batch, progress=advance,
            )  # fmt: skip
        summary |= {"baselines": [_row(v, verdicts[0]) for v in verdicts], "changes": changes}
    if not options.adapters:
        policy = AttentionSkip(found.layers, None, policy.base, found.summary)
    facts = provenance(model=model, processor=processor, samples=samples, options=options)
    header = run_header("search", model, options.data, options, options.seed, options.model, facts)
    saved = _save(options.out, policy, summary, header, found.history)
    page = write_report(options.out / "records.jsonl", options.out / "report.html")
    _show(summary, saved, page)
    return {"policy": str(saved), **{k: v for k, v in summary.items() if k not in ("options", "held_out_ids")}}


def _row(verdict: Any, full: Any) -> dict[str, Any]:
    found = asdict(verdict)
    found["images"] = len(set(found["images"]))
    return {**found, "accuracy": list(verdict.accuracy), "p_full": verdict.p_against(full)}


def _save(out: Path, policy: Any, summary: dict[str, Any], header: dict[str, Any], history: Any) -> Path:
    """The policy, `search.json`, and all updates in records.jsonl, each written whole."""
    from ..core.files import write_json
    from ..core.record import write_records

    write_json(out / "search.json", summary)
    updates = [("skip-search", update) for update in history]
    write_records(out / "records.jsonl", [("run", header), *updates, ("search", summary)])
    return Path(policy.save_pretrained(out))


def _show(summary: dict[str, Any], saved: Path, page: Path) -> None:
    from .common import plain_console
    from .tables import show_table

    console = plain_console()
    if summary["baselines"]:
        rows = []
        for row in summary["baselines"]:
            value, low, high = row["accuracy"]
            rows.append((row["name"], " ".join(map(str, row["layers"])) or "–", f"{value:.1%}",
                          f"{low:.0%} to {high:.0%}", f"{row['loss']:.3f}", f"{row['p_full']:.3f}"))  # fmt: skip
        columns = ("attentions skipped", "layers", "right", "95 %", "loss", "p (nothing skipped)")
        show_table(columns, rows, texts=("attentions skipped", "layers"), console=console)
    console.print(f"{summary['steps']} steps, {summary['updates']} updates of the scores; skip {summary['skipped']}")
    console.print(f"report: {page}")
    console.print(
        f"saved {saved}; next: lookaway train --method eas --skip-from {saved}, lookaway eval --policy {saved}"
    )
