"""`lookaway train --method eas`: adapters for skipped attentions, the base model frozen."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from ..core.errors import DataError
from ..training.adapter_training import AdapterOptions
from .model_options import PublishedModel


@dataclass(frozen=True, kw_only=True)
class Options(AdapterOptions, PublishedModel):
    """Train adapters that replace skipped attentions on your data; the model itself is not changed."""

    method: Literal["eas"] = "eas"
    """What to train; eas: attention skipping (docs/methods/eas.md); dyvte: visual-token exit."""
    skip_from: str | None = None
    """Skip the layers of this saved attention-skip policy, e.g. from a search, instead of --skip."""
    model: str = "lookaway-mini-plain"
    """Model folder or hub id; lookaway-mini and lookaway-mini-plain are the default models."""
    data: str = "mini"
    """mini, scenes, easy-vqa, or a file or folder of your own with answers (docs/data.md)."""
    split: str = "train"
    """train; or all of your own file."""
    limit: int | None = 1000
    """At most this many samples."""
    out: Path = Path("out/eas")
    """Folder of the policy; also for checkpoints and records.jsonl; the same command continues after a kill."""
    fresh: bool = False
    """Start again: remove what another run left in --out."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""


def run(options: Options) -> dict[str, Any]:
    from ..data import load_samples
    from ..models.loading import load_model
    from ..training.adapter_training import train_adapters
    from ..training.exit_labels import with_images
    from ..training.trainer import training_facts
    from .common import plain_console
    from .recorded_training import recorded_training
    from .settings import tell_settings

    chosen = AdapterOptions(**{field.name: getattr(options, field.name) for field in fields(AdapterOptions)})
    chosen = replace(chosen, skip=layers_to_skip(options))
    samples = with_images(load_samples(options.data, options.split, options.limit, options.seed))
    model, processor = load_model(options.model, device=options.device, **options.published)
    tell_settings(model, options.batch_size)
    facts = training_facts(model, processor, samples, chosen.filled())
    found = recorded_training(
        "train", options, model, facts,
        lambda reach: train_adapters(model, processor, samples, options.out, chosen, options.fresh, reach),
        lambda found: found.policy.save_pretrained(options.out),
    )  # fmt: skip
    if found is None:
        return {}
    console, summary, saved = plain_console(), found.summary, options.out
    console.print(
        f"{summary['steps']} steps on {summary['samples']} samples; {summary['trained_weights']:,} weights replace "
        f"the attention of layers {summary['skipped']}"
    )
    console.print(f"saved {saved}; next: lookaway eval --policy {saved}; merge it: la.merge(model, policy)")
    return {"policy": str(saved), **{k: v for k, v in summary.items() if k != "options"}}


def layers_to_skip(options: Options) -> tuple[int, ...]:
    """From --skip or --skip-from.

    Raises:
        DataError: both were given, or the policy skips nothing.
    """
    if options.skip_from is None:
        return options.skip
    if options.skip:
        raise DataError(f"Give either --skip ({list(options.skip)}) or --skip-from ({options.skip_from}), not both.")
    import lookaway as la

    policy = la.load(options.skip_from)
    skipped = getattr(policy, "skipped", ())
    if not skipped:
        raise DataError(f"{options.skip_from} holds {policy!r}, which skips no attention.")
    return tuple(skipped)
