"""`lookaway ceiling`: the most that each kind of method can save on a model, from its config."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..evaluation.ceiling import Ceiling


@dataclass(frozen=True, kw_only=True)
class Options:
    """Show the most that each kind of method can save on a model, from its config alone: no weight is loaded.

    The vision tower, the projector and the language head are not counted: no method here changes their time.
    """

    model: str
    """Folder or hub id of the model."""
    visual: int = 576
    """Visual tokens of a prompt."""
    text: int = 64
    """Other tokens of a prompt."""
    answer: int = 64
    """Tokens of an answer."""


def run(options: Options) -> dict[str, Any]:
    from ..evaluation.ceiling import ceilings, shape_of_config
    from ..models.loading import load_config

    shape, first = shape_of_config(load_config(options.model))
    rows = ceilings(shape, options.visual, options.text, options.answer, first)
    show(rows)
    return {"ceilings": [asdict(row) for row in rows], "num_layers": shape.num_layers}


def show(rows: Sequence[Ceiling]) -> None:
    """One line a kind of method."""
    from .tables import show_table

    cells = [(row.kind, f"{row.prefill_share:.0%}", f"{row.kv_share:.0%}", f"{row.total_share:.0%}") for row in rows]
    columns = ("at its cheapest", "prefill FLOPs", "KV cache", "prefill and answer, FLOPs")
    show_table(columns, cells, texts=("at its cheapest",))
