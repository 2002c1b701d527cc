"""ShortV's measure (arXiv 2504.00502): how much the next token changes where one layer freezes its visual tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...anatomy.find import anatomy_of
from ...core.cost import prefill_cost
from ...core.errors import DataError, SettingsError
from ...core.record import Sample
from ...engine.api import attach
from ...models.encoding import encode
from ...policies.baselines.shortv import ShortV, least_divergent
from ...policies.fixed import KeepAll

__all__ = ["Contributions", "measure_contributions"]


@dataclass(frozen=True)
class Contributions:
    """What the measure came to."""

    divergence: Mapping[int, float]
    """Layer -> mean KL divergence, in nats: of the full model's next token from that with the layer frozen (the order
    of the two is the public code's)."""
    flops_shares: tuple[float, ...]
    """[L + 1]: share of the prefill FLOPs that is left with so many layers frozen, over all samples."""
    samples: int

    def choose(self, count: int | None = None, budget: float | None = None) -> tuple[int, ...]:
        """The layers to freeze, the least divergent first.

        Args:
            count: so many; None: what `budget` asks for, and without one 60 % of the layers, as the paper has it.
            budget: as few as bring the prefill FLOPs down to this share.

        Raises:
            SettingsError: there are not so many layers; no number of them meets the budget.
        """
        depth = len(self.divergence)
        if count is None and budget is not None:
            enough = [n for n in range(1, depth + 1) if self.flops_shares[n] <= budget]
            if not enough:
                raise SettingsError(
                    f"Freezing all {depth} layers leaves {self.flops_shares[depth]:.1%} of the prefill FLOPs on these "
                    f"samples, which is more than --budget {budget:g}. Give a larger budget, or chain with a removal."
                )
            count = enough[0]
        return least_divergent(self.divergence, max(1, round(0.6 * depth)) if count is None else count)


def measure_contributions(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    batch_size: int = 16,
    progress: Callable[[int], object] = lambda count: None,
) -> Contributions:
    """Freeze every layer alone, on each sample: one run of the model for each, and one without.

    Raises:
        DataError: there is no sample.
        UnsupportedModel: the model's layers cannot be frozen.
    """
    if not samples:
        raise DataError("ShortV's search needs samples with an image. Give other --data.")
    anatomy = anatomy_of(model)
    depth, shape = anatomy.num_layers, anatomy.shape
    total = torch.zeros(depth, dtype=torch.float64)
    spent, whole = [0] * (depth + 1), 0
    for first in range(0, len(samples), batch_size):
        batch = samples[first : first + batch_size]
        inputs = anatomy.with_positions(encode(processor, batch, model.device).inputs)
        with attach(model, KeepAll()) as run:
            full = _next_token(anatomy.model, inputs)
        trace = run.trace
        for layer in range(depth):
            with attach(model, ShortV([layer])):
                frozen = _next_token(anatomy.model, inputs)
            total[layer] += float((frozen.exp() * (frozen - full)).sum())
            progress(len(batch))
        for count in range(depth + 1):
            cost = prefill_cost(shape, trace.tokens, trace.visual_tokens, held=range(count))
            spent[count] += cost.flops
        whole += cost.full_flops
    divergence = dict(enumerate((total / len(samples)).tolist()))
    return Contributions(divergence, tuple(flops / whole for flops in spent), len(samples))


@torch.no_grad()
def _next_token(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """Log-probabilities [B, vocabulary] of the token behind each prompt; prompts are padded on the left."""
    less = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    logits: Tensor = model(**inputs, use_cache=False, **less).logits
    return logits[:, -1].double().log_softmax(-1)
