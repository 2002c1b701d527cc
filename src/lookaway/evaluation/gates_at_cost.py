"""Exit gates at another policy's cost: the threshold at which they spend as much, found without reading any answer."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..anatomy.find import anatomy_of
from ..core.record import Sample
from ..engine.api import attach
from ..models.encoding import encode
from ..policies.exit_simulation import reading_layers
from ..policies.visual_exit import NOTE, VisualExit

__all__ = ["gates_at_cost"]

MORE = 1.1
"""Up to so many times the cost still counts as equal: whole samples leave one by one."""


def gates_at_cost(
    model: Any, processor: Any, samples: Sequence[Sample], gates: VisualExit, spent: int, batch_size: int = 8
) -> tuple[VisualExit, bool]:
    """The gates at the threshold at which they spend `spent` prefill FLOPs on these samples together, or up to a tenth
    more.

    One prefill a sample tells what every gate says, since a row whose tokens stay is what the next gate reads too.

    Args:
        model, processor: no policy attached.
        samples: with an image each.
        gates: whatever their own thresholds are, one is tried for all of their layers.

    Returns:
        (the gates, whether a threshold comes so near). Where none does, they have the one whose cost is nearest: even
        an exit at the first gate may cost more, and gates that are all but sure let go of many rows at once.
    """
    never = gates.with_threshold(1.0)
    anatomy = anatomy_of(model)
    layers = never.layers(anatomy.num_layers, anatomy.first_prunable_layer)
    said, costs = _ask(model, processor, samples, never, layers, batch_size)
    numbers = np.arange(len(samples))

    def total(threshold: float) -> int:
        fires = said > threshold
        first = np.where(fires.any(1), fires.argmax(1), len(layers))
        return int(costs[numbers, first].sum())

    values = np.unique(said)
    # between two values, so that a rounding does not decide
    tried = [0.0, *((values[1:] + values[:-1]) / 2).tolist(), 1.0]
    place = bisect_left(tried, spent, key=total)  # a higher threshold never costs less
    place = min(place, len(tried) - 1)
    if total(tried[place]) <= MORE * spent:
        return gates.with_threshold(tried[place]), total(tried[place]) >= spent
    return gates.with_threshold(min(tried[max(0, place - 1) : place + 1], key=lambda t: abs(total(t) - spent))), False


@torch.no_grad()
def _ask(
    model: Any, processor: Any, samples: Sequence[Sample], never: VisualExit, layers: Sequence[int], batch_size: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(what each gate says, float64 [N, C]; prefill FLOPs where it is the first to fire, and without an exit, int64
    [N, C + 1]), of gates that never let a row go."""
    read_at = reading_layers(layers, never.read_every)
    ends = [read_at[layer] for layer in layers]
    said: list[NDArray[np.float64]] = []
    costs: list[list[int]] = []
    for first in range(0, len(samples), batch_size):
        inputs = encode(processor, list(samples[first : first + batch_size]), model.device).inputs
        with attach(model, never) as run:
            model(**inputs, use_cache=False, logits_to_keep=1)
        trace, shape = run.trace, run.trace.shape
        said.append(np.array([trace.notes[layer][NOTE] for layer in layers], dtype=np.float64).T)
        for every, visual in zip(trace.tokens[0], trace.visual_tokens[0], strict=True):
            exits = [shape.flops_between(every, 0, end) + shape.flops_between(every - visual, end) for end in ends]
            costs.append([*exits, shape.flops_between(every)])
    return np.concatenate(said), np.array(costs, dtype=np.int64)
