"""SparseVLM (arXiv 2410.04417): text tokens that are close to the image rate the visual tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...core.errors import SettingsError
from ...core.registry import register
from ..ranked import Keep, RankedPolicy, steps_to_entries
from ..ranking import RANKINGS, Ranking

__all__ = ["SparseVLM"]


@register("sparsevlm")
@dataclass(frozen=True)
class SparseVLM(RankedPolicy):
    """Question tokens that are like the image rate its tokens; fewer stay at each of a few steps (SparseVLM).

    The text-guided ranking alone. Not taken over: the number that adapts to the rank of the attention map (it needs
    the map), and the recycling of dropped tokens into merged ones (the engine removes, it does not merge). Raters are
    chosen from the states at each step, not once from the embeddings. The first version renumbers positions, the
    second keeps them; here they are kept.
    """

    steps: Mapping[int, Keep]
    """Layer -> what it and the layers after it keep."""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            steps = {int(layer): keep for layer, keep in dict(self.steps).items()}  # JSON's keys are text
        except (TypeError, ValueError):
            raise SettingsError(f"SparseVLM's steps map layers to what is kept, not {self.steps!r}.") from None
        object.__setattr__(self, "steps", dict(sorted(steps.items())))

    def entries(self, num_layers: int) -> tuple[Keep, ...]:
        return steps_to_entries(self.steps, num_layers, "SparseVLM")

    def order(self) -> Ranking:
        return RANKINGS["text-raters"]

    def to_config(self) -> dict[str, Any]:
        return {**super().to_config(), "steps": {str(layer): keep for layer, keep in self.steps.items()}}

    def __hash__(self) -> int:
        return hash(tuple(self.steps.items()))
