"""Every fixed exit, the oracle, random exits and any gate, from one exit table: no model runs here.

For greedy decoding the table is exact: the answer generated after an exit before layer k equals the target if and only
if the argmax agrees at every teacher-forced answer position, its end token among them. Layer `num_layers` stands for
'never'. Samples without an image have nothing to exit from and are left out by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..core.cost import DecoderShape
from ..core.errors import DataError
from ..policies.fixed import even_weights

__all__ = ["ExitOutcomes", "Outcome"]

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What a choice of exit layers comes to, averaged over samples."""

    accuracy: float
    """Mean score."""
    agreement: float
    """Share of answers equal to the full model's."""
    mean_exit: float
    flops_share: float
    """Counted prefill FLOPs / those without exit."""
    visual_tokens_share: float
    """Visual tokens that a layer processes, averaged over layers, / all of them."""


@dataclass(frozen=True)
class ExitOutcomes:
    """What each sample would have answered for an exit before each candidate layer.

    Raises:
        DataError: shapes do not fit, or layers do not ascend.
    """

    layers: tuple[int, ...]
    """Candidate layers, ascending; the shape's `num_layers` (never) is added as a last column by the constructor's
    caller: `right[:, -1]` and `agree[:, -1]` belong to the unpruned run."""
    right: Floats | Bools  # [N, C]
    """Scores of the answers, mostly in [0, 1], or whether they are right."""
    agree: Bools  # [N, C]
    visual: Ints  # [N]
    """Visual tokens of each sample."""
    text: Ints  # [N]
    """Text tokens of each sample's prompt."""
    shape: DecoderShape

    def __post_init__(self) -> None:
        if list(self.layers) != sorted(set(self.layers)) or self.layers[-1] != self.shape.num_layers:
            raise DataError(f"Exit layers must ascend to {self.shape.num_layers} (never), not {self.layers}.")
        count = (len(self.visual), len(self.layers))
        if self.right.shape != count or self.agree.shape != count or self.text.shape != self.visual.shape:
            raise DataError(f"Outcomes must be {count}, not {self.right.shape} and {self.agree.shape}.")

    def __len__(self) -> int:
        return len(self.visual)

    @cached_property
    def flops(self) -> Ints:
        """Counted prefill FLOPs of each sample for each exit, [N, C]."""
        return np.array([
            [self.shape.flops_between(v + t, 0, k) + self.shape.flops_between(t, k) for k in self.layers]
            for v, t in zip(self.visual.tolist(), self.text.tolist(), strict=True)
        ])  # fmt: skip

    def subset(self, keep: Bools) -> ExitOutcomes:
        """The samples where `keep` bool [N] is True."""
        return ExitOutcomes(self.layers, self.right[keep], self.agree[keep], self.visual[keep], self.text[keep],
                            self.shape)  # fmt: skip

    # what becomes of a choice ----------------------------------------------------------------------------------------

    def of(self, columns: Ints) -> Outcome:
        """The outcome where sample n exits before `layers[columns[n]]`."""
        rows = np.arange(len(self))
        exits = np.array(self.layers)[columns]
        return Outcome(
            accuracy=float(self.right[rows, columns].mean()),
            agreement=float(self.agree[rows, columns].mean()),
            mean_exit=float(exits.mean()),
            flops_share=float(self.flops[rows, columns].sum() / self.flops[:, -1].sum()),
            visual_tokens_share=float((exits * self.visual).sum() / (self.shape.num_layers * self.visual.sum())),
        )

    def columns_of(self, exits: Sequence[int | None]) -> Ints:
        """Columns of exit layers; None and `num_layers` are 'never'."""
        place = {layer: column for column, layer in enumerate(self.layers)}
        depth = self.shape.num_layers
        try:
            return np.array([place[depth if layer is None else layer] for layer in exits], dtype=np.int64)
        except KeyError as error:
            raise DataError(f"Layer {error} is no candidate; candidates are {self.layers}.") from None

    def fixed(self) -> list[Outcome]:
        """The same exit for all samples, one outcome a candidate layer."""
        return [self.of(np.full(len(self), column)) for column in range(len(self.layers))]

    def oracle(self) -> Outcome:
        """Each sample exits at its earliest layer whose answer is the full model's: no policy can know that."""
        safe = self.agree.copy()
        safe[:, -1] = True
        return self.of(safe.argmax(axis=1))

    def random(self, mean_exit: float) -> Outcome:
        """Expectation over random exits with this mean that depend on nothing, otherwise as even as can be."""
        weights = even_weights(self.layers, min(max(mean_exit, self.layers[0]), self.layers[-1]))
        fixed = self.fixed()
        return Outcome(*(float(sum(w * getattr(o, f) for w, o in zip(weights, fixed, strict=True)))
                         for f in Outcome.__dataclass_fields__))  # fmt: skip

    def best_fixed_at(self, flops_share: float, measure: str = "accuracy") -> Outcome:
        """The best that fixed exits reach at this cost: mixing two of them is allowed (the upper hull of the curve).

        That is more than one fixed layer can do, so whoever beats it beats every fixed layer.
        """
        points = sorted((o.flops_share, getattr(o, measure), o) for o in self.fixed())
        best: Outcome | None = None
        for low in points:
            for high in points:
                if low[0] <= flops_share <= high[0]:
                    part = 0.0 if high[0] == low[0] else (flops_share - low[0]) / (high[0] - low[0])
                    mixed = Outcome(*((1 - part) * getattr(low[2], f) + part * getattr(high[2], f)
                                      for f in Outcome.__dataclass_fields__))  # fmt: skip
                    if best is None or getattr(mixed, measure) > getattr(best, measure):
                        best = mixed
        return best or points[0][2]
