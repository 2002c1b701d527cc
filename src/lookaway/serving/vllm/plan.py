"""A policy, with everything that can be said of it before a prompt was seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...core.decision import Policy
from .static_exits import empty_from, is_static

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """When a policy is asked."""

    policy: Policy
    num_layers: int
    exit_at: int | None
    """All visual tokens leave before this layer and none before: nobody has to be asked, and a prompt may come in
    chunks. `num_layers`: never. None: the policy looks at the prompt."""
    asks: frozenset[int]
    """Layers before which it is asked."""
    looks: frozenset[int]
    """Those before which it needs the queries and keys of the layer before."""
    then: Plan | None = None
    """What prompts that are unsure of their first answer token run again under; None: nothing."""
    unsure: Callable[[Tensor], Tensor] | None = None
    """Logits [R, vocabulary] of the first answer token -> prompts bool [R] that run again."""

    @classmethod
    def of(cls, policy: Policy, num_layers: int) -> Plan:
        exit_at = empty_from(policy, num_layers) if is_static(policy, num_layers) else None
        asks = frozenset(policy.layers(num_layers, 1))
        looks = policy.needs_attention(num_layers) & asks
        retry = policy.retry()
        if retry is None:
            return cls(policy, num_layers, exit_at, asks, looks)
        return cls(policy, num_layers, None, asks, looks, cls.of(retry.then, num_layers), retry.unsure)
