"""`lookaway doctor`: what a model folder is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from .model_options import PublishedModel
from .options import argument


@dataclass(frozen=True, kw_only=True)
class Options(PublishedModel):
    """Say what a model folder is and whether lookaway reads it, without loading its weights."""

    folder: str = argument()
    """Folder of a checkpoint, in its authors' layout or transformers' own."""


def run(options: Options) -> dict[str, Any]:
    from ..models.layouts.doctor import diagnose

    found = diagnose(options.folder, **options.published)
    table = Table(box=None, show_header=False)
    for name, value in found.facts.items():
        table.add_row(name, value)
    table.add_row("supported", f"{'yes' if found.supported else 'NO'}. {found.why}")
    Console(highlight=False, markup=False).print(table)
    return asdict(found)
