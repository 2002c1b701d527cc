"""`lookaway tune`: teach a model of your own to read its image early."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..training.tuning import TuneOptions
from .model_options import PublishedModel


@dataclass(frozen=True, kw_only=True)
class Options(TuneOptions, PublishedModel):
    """Teach a model to use its image early: LoRA training in which visual tokens leave in a share of the steps."""

    model: str = "lookaway-mini-plain"
    """Model folder or hub id."""
    data: str = "mini"
    """mini, scenes, easy-vqa, or a file or folder of your own with answers (docs/data.md)."""
    split: str = "train"
    """train; or all of your own file."""
    limit: int | None = None
    """At most this many samples."""
    out: Path = Path("out/tuned")
    """Folder for checkpoints and the adapter or merged model; the same command continues after a kill."""
    fresh: bool = False
    """Start again: remove what another run left in --out."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""


def run(options: Options) -> dict[str, Any]:
    from ..data import load_samples
    from ..models.loading import load_model
    from ..training.exit_labels import with_images
    from ..training.trainer import training_facts
    from ..training.tuning import tune
    from .common import plain_console
    from .recorded_training import recorded_training
    from .settings import tell_settings

    samples = with_images(load_samples(options.data, options.split, options.limit, options.seed))
    model, processor = load_model(options.model, device=options.device, **options.published)
    tell_settings(model, options.batch_size)
    chosen = TuneOptions(**{field.name: getattr(options, field.name) for field in fields(TuneOptions)})
    facts = training_facts(model, processor, samples, chosen)
    found = recorded_training(
        "tune", options, model, facts,
        lambda reach: tune(model, processor, samples, options.out, chosen, options.fresh, reach),
    )  # fmt: skip
    if found is None:
        return {}
    steps = found.summary["steps"]
    plain_console().print(f"{steps} steps on {len(samples)} samples; saved {found.folder}")
    return {"folder": str(found.folder), **{k: v for k, v in found.summary.items() if k != "options"}}
