"""`lookaway calibrate`: the threshold that keeps a guarantee about changed answers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ..policies.visual_exit import VisualExit
from ..training.calibration import CalibrationOptions
from .model_options import PublishedModel


@dataclass(frozen=True, kw_only=True)
class Options(CalibrationOptions, PublishedModel):
    """Choose the threshold so that, with confidence 1 - delta, at most epsilon of the answers change."""

    policy: str = "gates"
    """Folder or hub id of trained gates."""
    model: str = "lookaway-mini"
    """Model folder or hub id that the gates were trained for."""
    data: str = "mini"
    """mini, scenes, easy-vqa, or a file or folder of your own: like future inputs, and not used for training."""
    split: str = "calibration"
    """calibration; or all of your own file, where training used another one."""
    limit: int | None = 500
    """At most this many samples; of the generated sets, one question an image."""
    after: str | None = None
    """Folder, hub id or YAML file of a policy (or several joined by commas) that stays on and comes first: a skip set
    or a keep schedule. Use both then: --policy FIRST,GATES."""
    label_batch: int = 16
    """Samples per model run."""
    max_new_tokens: int = 32
    """Longest answer, in tokens."""
    features: Literal["float16", "float32"] = "float32"
    """Precision in which text features are kept. The saved gates will read them unrounded, and float16 may decide
    otherwise right at a threshold."""
    out: Path | None = None
    """Folder of the calibrated policy; default: the policy's with '-calibrated' behind its name. The policy given stays
    as it is."""
    cache: Path | None = None
    """Where features and labels are kept; default: lookaway's cache."""
    seed: int = 0
    """Seed of the data."""
    allow_other_model: bool = False
    """Calibrate for this model gates that were trained for another one (other weights); the records say so."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""


def run(options: Options) -> dict[str, Any]:
    from ..core.bounds import samples_needed, what_can_be_shown
    from ..core.errors import DataError, SettingsError
    from ..core.processes import processes
    from ..core.provenance import provenance
    from ..core.record import write_records
    from ..data import load_samples
    from ..evaluation.header import run_header
    from ..models.loading import load_model
    from ..reports.formatting import guarantee_text
    from ..training.calibration import calibrate, calibrated
    from ..training.exit_labels import NOTHING, LabelOptions, image_names, make_exit_table, phases, with_images
    from ..training.labels_behind import check_comes_first
    from .common import cache_folder, fit_to, load_policies, plain_console, tell
    from .progress import progress
    from .settings import tell_settings

    # 1. Whatever can be refused without a model is.
    policy, out = _gates(options.policy), options.out or default_out(options.policy)
    check_out(out, options.policy)
    after = load_policies(options.after, options.allow_other_model) if options.after else None
    check_comes_first(after)
    trained = _trained_after(policy, after)
    samples = with_images(
        load_samples(options.data, options.split, options.limit, options.seed, distinct_images=options.one_per_image)
    )
    names = image_names(samples)
    if not samples:
        raise DataError(NOTHING)
    independent = len(set(names.values())) if options.one_per_image else len(samples)
    tell(f"{len(samples)} samples of {len(set(names.values()))} pictures (split {options.split}): "
         f"{what_can_be_shown(independent, options.epsilon, options.delta)}.")  # fmt: skip
    if independent < (needed := samples_needed(options.epsilon, options.delta)):
        raise SettingsError(
            f"{independent} samples cannot show {options.epsilon:.1%} at confidence {1 - options.delta:.0%} even if no "
            f"answer changes; that takes at least {needed}. Give more --data, a larger --epsilon or a larger --delta. "
            "Nothing was written."
        )
    # 2. What every exit would answer.
    model, processor = load_model(options.model, device=options.device, **options.published)
    tell_settings(model, options.label_batch, "--label-batch")
    given, other = fit_to(model, policy, options.allow_other_model)
    assert isinstance(given, VisualExit)
    policy = given
    if after is not None:
        after, allowed = fit_to(model, after, options.allow_other_model)
        policy, other = policy.used_after(after), [*other, *allowed]
    labels = LabelOptions(
        target="own", batch_size=options.label_batch, max_new_tokens=options.max_new_tokens,
        candidates=policy.gates.layers, features=options.features,
    )  # fmt: skip
    with progress("all layers", len(samples), phases(samples, "own")) as advance:
        table = make_exit_table(model, processor, samples, labels, options.cache or cache_folder(), advance, after)
    if not processes().is_first:
        return {}
    # 3. The boldest threshold that passes, on the very policy that is saved.
    chosen = CalibrationOptions(**{field.name: getattr(options, field.name) for field in fields(CalibrationOptions)})
    found = calibrate(policy, table, chosen, names)
    if found.threshold is None:
        raise SettingsError(f"{found.reason} {options.policy} stays as it is, and nothing was written.")
    facts = provenance(model=model, processor=processor, policy=policy, samples=samples, options=options,
                       after=None if after is None else repr(after), free=("label_batch",))  # fmt: skip
    header = run_header("calibrate", model, options.data, options, options.seed, options.model, facts, other)
    saved = calibrated(policy, found).save_pretrained(out)
    write_records(out / "records.jsonl", [("run", header), ("calibration", {**found.record(), **trained})])
    console = plain_console()
    console.print(guarantee_text(found.record()))
    console.print(f"saved {saved}; next: lookaway eval --policy {saved}")
    return {"policy": str(saved), **found.record()}


def default_out(policy: str) -> Path:
    """Beside the given folder; of a hub id in the working directory."""
    path = Path(policy)
    if path.name in ("", ".."):  # of the working directory or one above it, which need their names
        path = path.resolve()
    return path.with_name(f"{path.name}-calibrated") if path.is_dir() else Path(f"{path.name}-calibrated")


def check_out(out: Path, policy: str) -> None:
    """Raise DataError where `out` holds a policy that no calibration put there: it would be overwritten."""
    from ..core.errors import DataError
    from ..core.record import read_records

    records = out / "records.jsonl"
    ours = records.exists() and any(r["kind"] == "calibration" for r in read_records(records))
    if (out / "config.json").exists() and (not ours or (Path(policy).is_dir() and out.samefile(policy))):
        raise DataError(f"{out} holds a policy that would be overwritten. Give another --out; nothing was changed.")


def _gates(folder: str) -> VisualExit:
    """The gates to calibrate.

    Raises:
        DataError: the folder holds something else.
    """
    import lookaway as la

    from ..core.errors import DataError
    from ..policies.compose import Chain

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an earlier guarantee, or none, is about to be replaced
        policy = la.load(folder)
    if isinstance(policy, Chain):
        raise DataError(
            f"{folder} holds a chain. Calibrate its gates behind the rest: lookaway calibrate --after FIRST --policy "
            "GATES, each saved by itself, and use both: --policy FIRST,GATES."
        )
    if not isinstance(policy, VisualExit):
        raise DataError(f"{folder} holds a {policy.name!r} policy, which has no threshold to calibrate.")
    return policy


def _trained_after(policy: VisualExit, after: Any) -> dict[str, Any]:
    """What the record says of the policy that the gates were trained behind, and of the one that comes first now.

    Raises:
        DataError: the gates were trained behind another policy, known by its content (in files of 0.1 by its repr), or
            behind one while none is given.
    """
    from ..core.errors import DataError
    from ..core.provenance import policy_digest
    from .common import tell

    training = policy.training or {}
    learnt, digest = training.get("after"), training.get("after_digest")
    facts = {"trained_after": learnt, "after": None if after is None else repr(after)}
    if learnt is None:
        if after is not None:
            tell(
                f"note: these gates were trained for the model by itself; the bound will be of {after!r} and the gates "
                "together. Gates trained with --after may exit earlier."
            )
        return facts
    if not (digest == policy_digest(after) if digest and after else repr(after) == learnt):
        raise DataError(f"These gates were trained after {learnt}, not after {after!r}. Give the same --after.")
    if not digest:
        tell(f"note: these gates do not say by content what they were trained after, only {learnt}: it may differ.")
        facts["after_compared_by"] = "name"
    return facts
