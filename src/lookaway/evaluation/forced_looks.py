"""Second looks with a set number of rows that look again, so that both kinds of rows can be timed on any sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import comb

import numpy as np
import torch
from torch import Tensor

from ..core.decision import Policy
from ..policies.second_look import SecondLook

__all__ = ["ForcedLook", "expected_seconds", "looks_timed", "variants_of"]


@dataclass(frozen=True)
class ForcedLook(SecondLook):
    """A second look in which the first `rows` rows of each batch look again, however sure they are. For timing alone:
    its answers are not the policy's."""

    rows: int = 0

    @classmethod
    def of(cls, policy: SecondLook, rows: int) -> ForcedLook:
        return cls(**{field.name: getattr(policy, field.name) for field in fields(SecondLook)}, rows=rows)

    def _unsure(self, logits: Tensor) -> Tensor:
        return torch.arange(len(logits), device=logits.device) < self.rows


def looks_timed(batch_size: int) -> tuple[int, ...]:
    """Numbers of rows that look again at which a batch is timed: none, one, all. Between one and all the time is taken
    to be a straight line: the second pass runs the rows that look again as one batch."""
    return (0, 1, batch_size) if batch_size > 1 else (0, 1)


def variants_of(policy: Policy, batch_size: int) -> dict[str, Policy]:
    """The forced variants of a second look in words; of another policy none."""
    if not isinstance(policy, SecondLook):
        return {}
    return {f"{n} of {batch_size} again": ForcedLook.of(policy, n) for n in looks_timed(batch_size)}


def expected_seconds(seconds: Mapping[int, float], again: float, batch_size: int) -> float:
    """Mean seconds of a batch whose rows each look again with probability `again`.

    A batch waits for its slowest rows, so it is the number of such rows in a batch that counts: binomial.

    Args:
        seconds: rows that look again -> seconds of the batch, for `looks_timed(batch_size)`; between them interpolated.
    """
    known: Sequence[int] = sorted(seconds)
    counts = np.arange(batch_size + 1)
    times = np.interp(counts, known, [seconds[n] for n in known])
    chances = [comb(batch_size, int(n)) * again**n * (1 - again) ** (batch_size - n) for n in counts]
    return float(np.dot(chances, times))
