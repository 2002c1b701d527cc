"""How well a schedule does: one number, 1.0 where it does as well as the full model, from teacher-forced answers.

Three measures, by choice. All are means over the calibration samples and depend on nothing random:

- *loss*: (full loss + slack) / (loss + slack), the ratio of mean cross-entropies on the answers. Smooth, so the
  default; the slack keeps the ratio tame where the full model's loss is next to nothing.
- *agreement*: share of samples whose argmax is the full run's at every answer position. Where the answers are the full
  model's own, that IS agreement of free-running greedy answers.
- *score*: accuracy / the full model's accuracy, an answer counting as right where every argmax is the ground truth's
  token: exact match under greedy decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...core.errors import DataError, SettingsError

__all__ = ["MEASURES", "Answers", "Measure", "at_most", "effectiveness"]

Measure = Literal["loss", "agreement", "score"]
MEASURES: tuple[Measure, ...] = ("loss", "agreement", "score")


@dataclass(frozen=True)
class Answers:
    """What one run said, sample by sample."""

    loss: NDArray[np.float64]  # [N]
    """Mean cross-entropy over the answer's tokens."""
    right: NDArray[np.bool_]  # [N]
    """Every argmax is the target's token."""
    agree: NDArray[np.bool_]  # [N]
    """Every argmax is the full run's."""

    def __len__(self) -> int:
        return len(self.loss)

    @classmethod
    def concat(cls, parts: Sequence[Answers]) -> Answers:
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("loss", "right", "agree")))


def effectiveness(found: Answers, full: Answers, measure: Measure, slack: float = 0.05) -> float:
    """The measure of a run beside the full run on the same samples; higher is better, 1.0 is as good as the full run.

    Raises:
        DataError: there is no sample, the samples differ in number, or the full model gets nothing right ('score').
        SettingsError: no such measure, or a negative slack.
    """
    if not len(full) or len(found) != len(full):
        raise DataError(f"Effectiveness compares the same samples; got {len(found)} and {len(full)}. Give some --data.")
    if measure not in MEASURES:
        raise SettingsError(f"No measure {measure!r}; there are {', '.join(MEASURES)}.")
    if slack < 0:
        raise SettingsError(f"The slack of the loss ratio must not be negative, not {slack}.")
    if measure == "agreement":
        return float(found.agree.mean())
    if measure == "score":
        if not full.right.any():
            raise DataError(
                f"The full model answers none of the {len(full)} calibration samples with the target, so a score "
                "tells nothing. Use --measure loss or agreement."
            )
        return float(found.right.mean() / full.right.mean())
    losses = float(full.loss.mean()), float(found.loss.mean())
    if not np.isfinite(losses).all():
        raise DataError("A loss is not finite. Run the search in fp32 or bf16, or leave the samples out that cause it.")
    return (losses[0] + slack) / (losses[1] + slack) if losses[1] + slack > 0 else 1.0


def at_most(part: Answers, full: Answers, measure: Measure, slack: float = 0.05) -> float:
    """The most that the effectiveness can come to once all samples are seen, `part` being some of them.

    A loss is never negative and an answer no better than right, so this only falls as samples are added. Where it is
    below what is needed, the other samples need not be run.
    """
    left = len(full) - len(part)
    if measure == "agreement":
        return float((part.agree.sum() + left) / len(full))
    if measure == "score":
        return float((part.right.sum() + left) / full.right.sum())
    return float((full.loss.mean() + slack) / max(part.loss.sum() / len(full) + slack, 1e-12))
