"""`lookaway align`: train the default model itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..training.default_model.options import RecipeOptions
from .common import plain_console
from .tables import show_table


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
    show(results)
    return results


def show(results: dict[str, Any]) -> None:
    """What each variant answers: with its images, with wrong ones, with none, and by words alone."""
    for variant, found in results.items():
        rows = [
            (family, *(f"{found[k].get(family, float('nan')):.3f}" for k in ("own", "shuffled", "none", "prior")))
            for family in found["own"]
        ]
        columns = ("family", "own image", "shuffled", "no image", "prior of words")
        show_table(columns, rows, title=f"lookaway-mini, {variant}", texts=("family",))
