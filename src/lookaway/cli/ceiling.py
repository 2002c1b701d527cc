"""`lookaway ceiling`: the most that each kind of method can save on a model, from its config."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..evaluation.ceiling import Ceiling


VISUAL, TEXT = 576, 64
"""Of LLaVA-1.5's prompt: assumed where a folder has no processor."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Show the most that each kind of method can save on a model, from its config alone: no weight is loaded.

    The vision tower, the projector and the language head are not counted: no method here changes their time.
    """

    model: str
    """Folder or hub id of the model."""
    visual: int | None = None
    """Visual tokens of a prompt; default: those that the model's own processor makes of a picture of 640 x 480 (where
    it has none, 576)."""
    text: int | None = None
    """Other tokens of a prompt; default: those of a short question in the model's own chat template (64 where it has no
    processor)."""
    answer: int = 64
    """Tokens of an answer."""


def run(options: Options) -> dict[str, Any]:
    from ..evaluation.ceiling import ceilings, shape_of_config
    from ..models.loading import load_config
    from .common import plain_console

    shape, first = shape_of_config(load_config(options.model))
    visual, text, words = _tokens(options)
    rows = ceilings(shape, visual, text, options.answer, first)
    plain_console().print(words)
    show(rows)
    return {"ceilings": [asdict(row) for row in rows], "num_layers": shape.num_layers, "visual": visual, "text": text}


def _tokens(options: Options) -> tuple[int, int, str]:
    """Visual and other tokens of the prompt, and in words where they come from."""
    from ..core.errors import LookawayError
    from ..models.picture_tokens import SIZE, prompt_tokens

    visual, text, whence = options.visual, options.text, "as given"
    if visual is None or text is None:
        try:
            found = prompt_tokens(options.model)
            own_visual, own_text = found.visual, found.text
            whence = f"the model's own, for a short question about a picture of {SIZE[0]} x {SIZE[1]}"
        except LookawayError as error:
            own_visual, own_text = VISUAL, TEXT
            whence = f"assumed, because the model's own are not known: {error} Give --visual and --text"
        visual, text = visual if visual is not None else own_visual, text if text is not None else own_text
        if options.visual is not None or options.text is not None:
            whence = f"--{'text' if options.visual is None else 'visual'} as given, the other {whence}"
    return visual, text, (
        f"A prompt of {visual} visual and {text} other tokens ({whence}); an answer of {options.answer}."
    )  # fmt: skip


def show(rows: Sequence[Ceiling]) -> None:
    """One line a kind of method."""
    from .tables import show_table

    cells = [(row.kind, f"{row.prefill_share:.0%}", f"{row.kv_share:.0%}", f"{row.total_share:.0%}") for row in rows]
    columns = ("at its cheapest", "prefill FLOPs", "KV cache", "prefill and answer, FLOPs")
    show_table(columns, cells, texts=("at its cheapest",))
