"""What a published checkpoint becomes: config, class, processor and the table of its tensors; and loading it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.errors import PreparationError
from .rules import Piece, Source, check_fit, pieces_of

__all__ = ["MARK", "Plan", "build", "checked_pieces"]

MARK = "lookaway_layout"
"""Key in a converted model's config.json: which published layout it was, so that its processor is completed alike."""


@dataclass(frozen=True)
class Plan:
    """All that must be known of a checkpoint to load or to convert it. No weight has been read yet."""

    layout: str
    """'llava-1.5', 'internvl2', ...; see docs/models.md."""
    model_class: Any
    config: Any
    generation: Any
    """`GenerationConfig`: greedy, with the published end tokens."""
    processor: Any
    sources: tuple[Source, ...]
    dtype: torch.dtype
    """Floating-point type of the checkpoint; towers from other folders are rounded to it, as the public loaders do."""
    conversation: str
    """Name of the prompt form that the processor's chat template makes."""

    @property
    def largest_shard(self) -> int:
        """Bytes of the largest weight file that is read."""
        return max(source.shards.largest for source in self.sources)


def checked_pieces(plan: Plan) -> tuple[dict[str, Piece], dict[str, Tensor]]:
    """The plan's tensors by name and the model's state dict on the meta device, which they fit.

    Raises:
        PreparationError: a tensor is missing, unexpected or of another shape; the text lists all by name.
    """
    try:
        with torch.device("meta"):
            model = plan.model_class._from_config(plan.config, dtype=plan.dtype)
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise PreparationError(
            f"The sizes in the checkpoint's config make no {plan.model_class.__name__} ({str(error).splitlines()[0]}). "
            "Compare them with the published ones, or download the config again."
        ) from error
    wanted: dict[str, Tensor] = dict(model.state_dict())
    pieces, unknown = pieces_of(plan.sources)
    check_fit(pieces, wanted, unknown, _tied(model))
    return pieces, {name: wanted[name] for name in wanted if name in pieces}


def build(plan: Plan, dtype: torch.dtype | None = None, attention: str | None = None) -> Any:
    """The model, in eval mode, on the CPU.

    Its tensors are read one after the other; beside the finished model no more than the mapped files is held.

    Args:
        dtype: of the model; None: the checkpoint's own.
        attention: attention implementation; None: transformers' choice (SDPA).
    """
    pieces, wanted = checked_pieces(plan)
    state = {name: pieces[name].read(plan.dtype) for name in in_file_order(pieces) if name in wanted}
    for source in plan.sources:
        source.shards.close()
    other = {"attn_implementation": attention} if attention else {}
    model = plan.model_class.from_pretrained(
        None, config=plan.config, state_dict=state, dtype=dtype or plan.dtype, **other
    )
    model.generation_config = plan.generation
    return model.eval()


def in_file_order(pieces: Mapping[str, Piece]) -> list[str]:
    """Names in the order in which their files are best read: each file once, from front to back."""
    return sorted(pieces, key=lambda name: (str(pieces[name].shards.specs[pieces[name].name].file), name))


def _tied(model: Any) -> list[str]:
    """Names that a model takes from others when its config ties them."""
    if not getattr(model.config, "tie_word_embeddings", False):
        return []
    return [str(name) for name in (getattr(model, "_tied_weights_keys", None) or ())]
