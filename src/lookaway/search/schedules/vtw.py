"""VTW's search (arXiv 2405.05803): the first layer before which all visual tokens can leave, by KL divergence.

Published: the divergence of the next-token distribution from the full model's, averaged over a few dozen samples, one
full pass of the model for each layer and sample. Here one tape of the full run gives every layer (`engine.replay`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...anatomy.find import anatomy_of
from ...core.errors import DataError
from ...core.record import Sample
from ...engine.replay.tape import record_tape
from ...models.encoding import encode
from ...policies.baselines.vtw import withdrawal_layer

__all__ = ["Withdrawal", "find_withdrawal"]


@dataclass(frozen=True)
class Withdrawal:
    """What the search came to."""

    layer: int | None
    """The first layer whose divergence is below the threshold; None: there is none, so nothing may leave."""
    threshold: float
    divergence: dict[int, float]
    """Layer -> mean KL divergence, in nats."""
    samples: int


def find_withdrawal(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    threshold: float = 0.003,
    batch_size: int = 16,
    progress: Callable[[int], object] = lambda count: None,
) -> Withdrawal:
    """Measure every exit layer on the samples and choose one.

    Args:
        threshold: in nats; the paper's value is not known to us, ours is small beside the loss of one token.

    Raises:
        DataError: there is no sample.
        SettingsError: the threshold is not above 0.
    """
    if not samples:
        raise DataError("VTW's search needs samples with an image. Give other --data.")
    anatomy = anatomy_of(model)
    anatomy.require_inside("VTW")
    layers = range(anatomy.first_prunable_layer, anatomy.num_layers)
    total = torch.zeros(len(layers), dtype=torch.float64)
    for first in range(0, len(samples), batch_size):
        batch = samples[first : first + batch_size]
        inputs = anatomy.with_positions(encode(processor, batch, model.device).inputs)
        last = torch.full((len(batch), 1), inputs["input_ids"].shape[1] - 1, device=model.device)
        with torch.no_grad():
            tape = record_tape(anatomy, inputs)
            full = tape.full_logits(last).float().log_softmax(-1)  # [B, 1, vocabulary]
            for place, logits in enumerate(tape.exit_logits(list(layers), last)):
                gap = full.exp() * (full - logits.float().log_softmax(-1))
                total[place] += float(gap.sum())
        progress(len(batch))
    found = dict(zip(layers, (total / len(samples)).tolist(), strict=True))
    return Withdrawal(withdrawal_layer(found, threshold), threshold, found, len(samples))
