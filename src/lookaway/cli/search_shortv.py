"""`lookaway search --method shortv`: the layers in which visual tokens can be frozen with the least effect."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..core.errors import SettingsError
from .model_options import PublishedModel


@dataclass(frozen=True, kw_only=True)
class Options(PublishedModel):
    """Find the layers in which visual tokens can be frozen with the least effect on the next token (ShortV)."""

    method: Literal["shortv"] = "shortv"
    """What is searched; shortv: layers to freeze (docs/methods/shortv.md)."""
    count: int | None = None
    """Layers to freeze; default: what --budget asks for, and without one 60 % of all layers, as published."""
    budget: float | None = None
    """Freeze as few layers as bring the prefill FLOPs down to this share."""
    model: str = "lookaway-mini-plain"
    """Model folder or hub id; lookaway-mini and lookaway-mini-plain are the default models."""
    data: str = "mini"
    """mini, scenes, easy-vqa, or a file or folder of your own (docs/data.md); no answers are needed."""
    split: str = "calibration"
    """calibration; or train, or all of your own file, where the test samples are in another file."""
    limit: int | None = 40
    """At most this many samples (40 in the paper); those without an image are left out."""
    out: Path = Path("shortv")
    """Folder for the policy, search.json and records.jsonl."""
    batch_size: int = 8
    """Samples per batch."""
    seed: int = 0
    """Seed of the data."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""

    def __post_init__(self) -> None:
        if self.count is not None and self.budget is not None:
            raise SettingsError("Give --count or --budget, not both.")
        if self.count is not None and self.count < 1:
            raise SettingsError(f"--count must be at least 1, not {self.count}.")
        if self.budget is not None and not 0 < self.budget < 1:
            raise SettingsError(f"--budget is a share of the prefill FLOPs between 0 and 1, not {self.budget}.")


def run(options: Options) -> dict[str, Any]:
    from ..anatomy.find import anatomy_of
    from ..data import load_samples
    from ..models.loading import load_model
    from ..policies.baselines.shortv import ShortV
    from ..search.schedules.session import check_out
    from ..search.schedules.shortv import measure_contributions
    from ..search.trials.samples import with_images
    from .progress import progress
    from .search_saving import save_measured
    from .settings import tell_settings

    check_out(options.out)
    samples = with_images(load_samples(options.data, options.split, options.limit, options.seed))
    model, processor = load_model(options.model, device=options.device, **options.published)
    tell_settings(model, options.batch_size)
    anatomy = anatomy_of(model)
    with progress("layers frozen", len(samples) * anatomy.num_layers) as advance:
        found = measure_contributions(model, processor, samples, options.batch_size, advance)
    layers = found.choose(options.count, options.budget)
    share = found.flops_shares[len(layers)]
    summary = {"method": "shortv", **asdict(found), "frozen": list(layers), "flops_share": share,
               "sample_ids": [sample.id for sample in samples]}  # fmt: skip
    saved, summary = save_measured(options, model, processor, samples, ShortV(layers), summary)
    _show(found.divergence, layers, share, saved)
    return {"policy": str(saved), **summary}


def _show(divergence: Any, layers: tuple[int, ...], share: float, saved: Path) -> None:
    from .common import plain_console
    from .tables import show_table

    console = plain_console()
    rows = [
        (str(layer), f"{divergence[layer]:.3g}", "yes" if layer in layers else "no")
        for layer in sorted(divergence, key=divergence.__getitem__)
    ]
    show_table(("layer", "KL of the next token", "frozen"), rows, console=console)
    console.print(
        f"{len(layers)} of {len(divergence)} layers freeze their visual tokens: {share:.1%} of the prefill FLOPs, the "
        f"KV cache as before\nsaved {saved}; next: lookaway eval --policy {saved}"
    )
