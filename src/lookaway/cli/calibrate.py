"""`lookaway calibrate`: the threshold that keeps a guarantee about changed answers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

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
    """mini, scenes, easy-vqa, or a file or folder of your own: like the inputs to come, and not used for training."""
    split: str = "calibration"
    """calibration; or all of your own file, where training used another one."""
    limit: int | None = 500
    """At most so many samples; of the generated sets, one question an image."""
    after: str | None = None
    """Folder, hub id or YAML file of a policy (or several joined by commas) that stays on and comes first: a skip set
    or a keep schedule. Use both then: --policy FIRST,GATES."""
    label_batch: int = 16
    """Samples a run of the model."""
    max_new_tokens: int = 32
    """Longest answer, in tokens."""
    out: Path | None = None
    """Folder of the calibrated policy; default: the policy's own folder."""
    cache: Path | None = None
    """Where features and labels are kept; default: lookaway's cache."""
    seed: int = 0
    """Seed of the data."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""


def run(options: Options) -> dict[str, Any]:
    from rich.console import Console

    import lookaway as la

    from ..core.errors import DataError
    from ..core.record import RecordWriter
    from ..data import load_samples
    from ..evaluation.header import run_header
    from ..models.loading import load_model
    from ..policies.visual_exit import VisualExit
    from ..reports.formatting import guarantee_text
    from ..training.calibration import calibrate, calibrated
    from ..training.exit_labels import LabelOptions, image_names, make_exit_table, with_images
    from .common import cache_folder, load_policies, progress

    policy = la.load(options.policy)
    if not isinstance(policy, VisualExit):
        raise DataError(f"{options.policy} holds a {policy.name!r} policy, which has no threshold to calibrate.")
    after = load_policies(options.after) if options.after else None
    learnt = (policy.training or {}).get("after")
    if learnt is not None and repr(after) != learnt:
        raise DataError(f"These gates were trained after {learnt}, not after {after!r}. Give the same --after.")
    if after is not None:
        policy = policy.used_after(after)
    out = options.out or Path(options.policy)
    samples = with_images(
        load_samples(options.data, options.split, options.limit, options.seed, distinct_images=options.one_per_image)
    )
    model, processor = load_model(options.model, device=options.device, **options.published)
    if policy.base is not None:
        policy.base.check(la.anatomy(model).base)
    labels = LabelOptions(
        target="own", batch_size=options.label_batch, max_new_tokens=options.max_new_tokens,
        candidates=policy.gates.layers,
    )  # fmt: skip
    with progress("answers for all layers", len(samples)) as advance:
        table = make_exit_table(model, processor, samples, labels, options.cache or cache_folder(), advance, after)
    chosen = CalibrationOptions(**{field.name: getattr(options, field.name) for field in fields(CalibrationOptions)})
    found = calibrate(policy.gates, table, chosen, image_names(samples))
    saved = calibrated(policy, found).save_pretrained(out)
    with RecordWriter(out / "records.jsonl") as writer:
        writer.write("run", **run_header("calibrate", model, options.data, options, options.seed, options.model))
        writer.write("calibration", **found.record())
    console = Console(highlight=False)
    console.print(guarantee_text(found.record()))
    if found.threshold is None:
        console.print(f"[yellow]note:[/yellow] {found.reason}")
    console.print(f"saved {saved}")
    return {"policy": str(saved), **found.record()}
