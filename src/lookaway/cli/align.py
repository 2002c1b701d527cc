"""`lookaway align`: train the default model itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from ..training.default_model.options import RecipeOptions
from .common import plain_console


@dataclass(frozen=True, kw_only=True)
class Options(RecipeOptions):
    """Train lookaway-mini by its own recipe: tower, projector, alignment, evaluation. Resumes from --out."""

    out: Path
    """Folder for checkpoints, logs, weights/ and the results; with the same folder it continues where it stopped."""
    threads: int = 0
    """CPU threads; 0: torch's own choice."""


def run(options: Options) -> dict[str, Any]:
    import torch

    from ..training.default_model.recipe import make_mini
    from .settings import tell_settings

    if options.threads:
        torch.set_num_threads(options.threads)
    tell_settings()
    console = plain_console()
    results = make_mini(options, options.out, lambda line: console.print(line, soft_wrap=True))
    for variant, found in results.items():
        table = Table(
            "family", "own image", "shuffled", "no image", "prior of words", title=f"lookaway-mini, {variant}", box=None
        )
        for family in found["own"]:
            table.add_row(
                family, *(f"{found[k].get(family, float('nan')):.3f}" for k in ("own", "shuffled", "none", "prior"))
            )
        console.print(table)
    return results
