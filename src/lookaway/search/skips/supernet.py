"""Adapters of all attentions, trained while random subsets of them are skipped: what skip sets are judged with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ...anatomy.base import Anatomy
from ...core.errors import MissingDependency
from ...core.random_state import seeded
from ...engine.api import attach
from ...engine.replay.teacher_forcing import attached_loss
from ...models.encoding import Encoded
from ...modules.adapters import SkipAdapters
from ...policies.attention_skip import AttentionSkip
from .bandit import Bandit
from .options import SkipSearchOptions

__all__ = ["Supernet", "drawn_size", "processes"]


class Supernet:
    """Adapters of all arms and their optimiser."""

    def __init__(self, anatomy: Anatomy, arms: Sequence[int], options: SkipSearchOptions) -> None:
        assert options.lr is not None
        self.model, self.options = anatomy.model, options
        with seeded(options.seed):
            adapters = SkipAdapters(anatomy.shape.hidden_size, arms, options.shape())
        self.adapters = adapters.to(next(anatomy.model.parameters()).device).train()
        self.optimiser = torch.optim.AdamW(self.adapters.parameters(), options.lr, weight_decay=options.weight_decay)

    def step(self, step: int, batch: Encoded, bandit: Bandit) -> float:
        """One training step with a random subset skipped, the same in all processes; returns this one's loss."""
        from accelerate.utils import broadcast_object_list, reduce

        o = self.options
        assert o.lr is not None
        ranks = processes()
        (skipped,) = broadcast_object_list([bandit.draw(step, drawn_size(step, o))])
        own = (o.seed * 1_000_003 + step) * ranks.num_processes + ranks.process_index
        with seeded(own, next(self.adapters.parameters()).device), torch.enable_grad():  # dropout
            self.optimiser.zero_grad()
            with attach(self.model, AttentionSkip(skipped, self.adapters.train())) as attached:
                loss = attached_loss(self.model, attached, batch)
                loss.backward()  # with the skip still in place: checkpointed layers run again
        for parameter in self.adapters.parameters():
            if parameter.grad is not None:  # the same ones in all processes: those of the subset
                parameter.grad = reduce(parameter.grad, "mean")
        for group in self.optimiser.param_groups:
            group["lr"] = o.lr * _rate(step, o.steps)
        self.optimiser.step()
        return float(loss.detach())


def processes(cpu: bool | None = None) -> Any:
    """This process among those of a distributed run (torchrun), as accelerate's `PartialState`; joins them first.

    Args:
        cpu: meet on the CPU; None: where there is no GPU.

    Raises:
        MissingDependency: accelerate is not installed.
    """
    try:
        from accelerate import PartialState
    except ImportError:
        raise MissingDependency.of("accelerate", "train") from None
    return PartialState(cpu=not torch.cuda.is_available() if cpu is None else cpu)


def drawn_size(step: int, o: SkipSearchOptions) -> int:
    """k, which a growing warm-up raises from 1 over its first half."""
    assert o.warm is not None
    if not o.grow or o.warm == 0:
        return o.skip
    return min(o.skip, math.floor(2 * o.skip * step / (o.warm * o.steps)) + 1)


def _rate(step: int, steps: int) -> float:
    """Share of the peak rate: 3 % warm-up, then linearly to 0 (the published LLaVA search)."""
    warm = max(1, round(0.03 * steps))
    return min(1.0, (step + 1) / warm) * (1 - step / steps)
