"""`lookaway train`: exit gates for a model, from samples, in two steps of which the first is cached.

Other methods have their own module and options (`METHODS`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..training.gate_options import GateOptions
from .model_options import PublishedModel

if TYPE_CHECKING:
    from ..training.gate_training import GateRun


@dataclass(frozen=True, kw_only=True)
class Options(GateOptions, PublishedModel):
    """Train exit gates for a model on your data: labels for all layers once (cached), then the gates in seconds."""

    method: Literal["dyvte"] = "dyvte"
    """What to train; dyvte: visual-token exit (docs/methods/dyvte.md). Options of others: --method eas --help,
    --method twig --help."""
    model: str = "lookaway-mini"
    """Model folder or hub id; lookaway-mini and lookaway-mini-plain are the default models."""
    data: str = "mini"
    """mini, scenes, easy-vqa, or a file or folder of your own (docs/data.md)."""
    split: str = "train"
    """train; or all of your own file, where calibration and evaluation get another file."""
    limit: int | None = 1000
    """At most this many samples."""
    target: Literal["auto", "answer", "own"] = "auto"
    """answer: the ground truth; own: the full model's greedy answer; auto: ground truth where all samples have it."""
    after: str | None = None
    """Folder, hub id or YAML file of a policy (or several joined by commas) that stays on and comes first: a skip set
    or a keep schedule. Use both then: --policy FIRST,GATES."""
    label_batch: int = 16
    """Samples per model run while labels are made."""
    max_new_tokens: int = 32
    """Longest own answer, in tokens."""
    features: Literal["float16", "float32"] = "float16"
    """Precision in which text features are kept; float32 where some are too large for float16, for twice the disk."""
    out: Path = Path("gates")
    """Folder for the policy and its records.jsonl. An earlier policy there is replaced."""
    cache: Path | None = None
    """Where features and labels are kept, so that another training costs no model run; default: lookaway's cache."""
    allow_other_model: bool = False
    """Use the policy of --after although it was made for another model (other weights); the records say so."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""


METHODS = {"dyvte": "lookaway.cli.train", "eas": "lookaway.cli.train_eas", "twig": "lookaway.cli.train_twig"}
"""Method -> module with its `Options` and `run`."""


def run(options: Options) -> dict[str, Any]:
    from ..anatomy.find import anatomy_of
    from ..core.errors import DataError
    from ..core.processes import processes
    from ..core.provenance import provenance
    from ..core.record import write_records
    from ..data import load_samples
    from ..evaluation.header import run_header
    from ..models.loading import load_model
    from ..policies.visual_exit import VisualExit
    from ..training.exit_labels import NOTHING, LabelOptions, image_names, make_exit_table, phases, with_images
    from ..training.gate_training import train_gates
    from ..training.labels_behind import check_comes_first
    from .common import cache_folder, fit_to, load_policies
    from .progress import progress
    from .settings import tell_settings

    gate_options = GateOptions(**{field.name: getattr(options, field.name) for field in fields(GateOptions)})
    label_options = LabelOptions(
        target=options.target, batch_size=options.label_batch, max_new_tokens=options.max_new_tokens,
        candidates=options.layers, features=options.features,
    )  # fmt: skip
    samples = with_images(load_samples(options.data, options.split, options.limit, options.seed))
    names = image_names(samples)
    if not samples:
        raise DataError(NOTHING)
    say_what_can_be_shown(options, len(samples), len(set(names.values())))
    after = load_policies(options.after, options.allow_other_model) if options.after else None
    check_comes_first(after)
    model, processor = load_model(options.model, device=options.device, **options.published)
    tell_settings(model, options.label_batch, "--label-batch")
    other = list[str]()
    if after is not None:
        after, other = fit_to(model, after, options.allow_other_model)
    cache = options.cache or cache_folder()
    facts = provenance(model=model, processor=processor, policy=after, samples=samples, options=options)
    header = run_header("train", model, options.data, options, options.seed, options.model, facts, other)
    with progress("all layers", len(samples), phases(samples, options.target)) as advance:
        table = make_exit_table(model, processor, samples, label_options, cache, advance, after, leave_out=True)
    if not processes().is_first:
        return {}  # the labels are shared; the gates take one process some seconds
    with progress("epochs of the gates' training", None) as steps:
        trained = train_gates(table, gate_options, names, steps.reach)
    policy = VisualExit(
        trained.gates, trained.threshold, options.min_layer, base=anatomy_of(model).identity, training=trained.summary
    )
    if after is not None:
        policy = policy.used_after(after)
    saved = policy.save_pretrained(options.out)
    training = {**trained.summary, "history": trained.history}
    write_records(options.out / "records.jsonl", [("run", header), ("training", training)])
    show(trained, saved)
    return {"policy": str(saved), **{k: v for k, v in trained.summary.items() if k != "good_share"},
            "options": asdict(gate_options.filled())}  # fmt: skip


def say_what_can_be_shown(options: Options, samples: int, pictures: int) -> None:
    """Before any work: what there is to train on, and what the data can certify afterwards, in numbers."""
    from ..core.bounds import samples_needed, what_can_be_shown
    from ..core.errors import DataError
    from ..data import load_samples
    from ..training.calibration import CalibrationOptions
    from .calibrate import Options as Calibrate
    from .common import tell

    tell(f"{samples} samples of {pictures} pictures to train on (split {options.split}).")
    epsilon, delta = CalibrationOptions().epsilon, CalibrationOptions().delta
    try:
        found = load_samples(options.data, "calibration", Calibrate.limit, options.seed, distinct_images=True)
        kept = len([sample for sample in found if sample.images])
    except DataError:
        kept = 0
    if options.split == "all":
        needed = samples_needed(epsilon, delta)
        tell(
            f"The split all is the whole of {options.data}: lookaway calibrate needs pictures from elsewhere, at least "
            f"{needed} for {epsilon:.1%} changed answers at confidence {1 - delta:.0%}."
        )
    else:
        tell(f"{kept} pictures for lookaway calibrate (split calibration): {what_can_be_shown(kept, epsilon, delta)}.")


def show(trained: GateRun, saved: Path) -> None:
    """What was trained, what the validation part says, and what to do next."""
    from .common import plain_console, print_note

    found, console = trained.summary, plain_console()
    console.print(
        f"{found['parameters']:,} gate weights, {found['samples']} samples, {found['epochs']} epochs; at threshold "
        f"{trained.threshold} the gates agree with the full model on {found['validation_agreement']:.1%} of "
        f"{found['validation_samples'] or found['samples']} "
        f"{'validation' if found['validation_samples'] else 'training'} samples, mean exit layer "
        f"{found['validation_mean_exit']:.1f}."
    )
    for warning in found["warnings"]:
        print_note(console, warning)
    console.print(f"saved {saved}; next: lookaway calibrate --policy {saved}, lookaway eval --policy {saved}")
