"""PyramidDrop (arXiv 2410.17247): the decoder in stages, a share of the visual tokens leaves after each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...core.errors import SettingsError
from ...core.registry import register
from ..ranked import Keep, RankedPolicy, steps_to_entries
from ..ranking import Ranking, ranking_named

__all__ = ["PyramidDrop"]


@register("pyramiddrop")
@dataclass(frozen=True)
class PyramidDrop(RankedPolicy):
    """After each of several equal stages, a share of the visual tokens leaves; the last token ranks (PyramidDrop).

    Published: four stages, half of the tokens stays at each (LLaVA-1.5: before layers 8, 16, 24), ranked by the last
    instruction token. Published position ids are renumbered; here they stay the original ones (`positions`).
    """

    ratio: float = 0.5
    """Share of the tokens at hand that stays after a stage."""
    stages: int = 4
    """Equal parts of the decoder; nothing leaves before the first ends."""
    steps: Sequence[int] | None = None
    """The layers before which tokens leave, where the stages are not equal; None: from `stages`."""
    ranking: str = "last-token"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.ratio <= 1:
            raise SettingsError(
                f"PyramidDrop's ratio is the share that stays, above 0 and at most 1, not {self.ratio}."
            )
        if self.stages < 1:
            raise SettingsError(f"PyramidDrop needs at least one stage, not {self.stages}.")
        if self.steps is not None:
            if list(self.steps) != sorted(set(self.steps)):
                raise SettingsError(f"PyramidDrop's steps are ascending layers, not {list(self.steps)}.")
            object.__setattr__(self, "steps", tuple(self.steps))
        ranking_named(self.ranking)

    def entries(self, num_layers: int) -> tuple[Keep, ...]:
        if self.steps is None and self.stages > num_layers:
            raise SettingsError(f"PyramidDrop: {self.stages} stages do not fit in {num_layers} layers. Use fewer.")
        steps = self.steps or [stage * num_layers // self.stages for stage in range(1, self.stages)]
        shares = {layer: float(self.ratio) ** place for place, layer in enumerate(steps, 1)}
        return steps_to_entries(shares, num_layers, "PyramidDrop")

    def order(self) -> Ranking:
        return ranking_named(self.ranking)
