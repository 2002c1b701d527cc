"""Which policy is attached to the served model right now; it changes from request to request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...anatomy.find import anatomy_of
from ...core.decision import KEEP, Decision, LayerView, Policy
from ...core.errors import UnsupportedModel
from ...engine.api import attach
from ...engine.handle import Handle

__all__ = ["PolicySwitch"]


class _Continue(Policy):
    """Decides nothing, at any layer: rows that were prefilled under different policies decode under it."""

    name = "continue"

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        return (0, *range(first_prunable, num_layers))

    def decide(self, view: LayerView) -> Decision:
        return KEEP


class PolicySwitch:
    """Attaches one of several policies at a time, and changes only where it must: attaching costs milliseconds.

    For one thread. Raises what `la.attach` raises, for every policy, when it is made.
    """

    def __init__(self, model: Any, policies: Mapping[str, Policy], allow_other_model: bool = False) -> None:
        self.model, self.anatomy = model, anatomy_of(model)
        self.policies = dict(policies)
        if self.policies and self.anatomy.only_before:
            raise UnsupportedModel(
                f"Serving requests of different policies in one batch is not possible on {type(model).__name__}: "
                f"{self.anatomy.only_before}. Attach a policy that acts before the decoder in your own service instead "
                "(docs/service.md)."
            )
        self._allow_other_model = allow_other_model
        self._now: Handle | None = None
        self._depth = self.anatomy.num_layers
        self._continue = _Continue()
        self._reach = {id(policy): self._first_layer(policy) for policy in self.policies.values()}
        self._reach[id(self._continue)] = 0
        for policy in self.policies.values():  # whatever does not fit is refused before the first request
            attach(model, policy, allow_other_model).detach()

    def skips_attention(self, name: str | None) -> bool:
        """Rows of this policy decode under it alone: its decoder is another one."""
        return name is not None and bool(self.policies[name].skips(self._depth))

    def use(self, name: str | None) -> Handle | None:
        """Attach the policy of this name for a prefill; None: no policy at all."""
        return self._attach(None if name is None else self.policies[name])

    def use_for_text(self) -> None:
        """For a prefill without visual tokens, under no policy of its own: whatever is attached finds nothing to do."""
        if self._now is not None and self._now.policy.skips(self._depth):
            self._attach(None)

    def use_for_decoding(self, name: str | None, first_layer: int) -> None:
        """Attach something under which rows can decode.

        Args:
            name: the policy of rows that decode under it alone; None: any policy's.
            first_layer: the first layer whose cache lost columns in any of the rows; the depth where none did.
        """
        if name is not None:
            self.use(name)
            return
        now = None if self._now is None else self._now.policy
        skipping = now is not None and bool(now.skips(self._depth))
        if first_layer >= self._depth:
            if skipping:
                self._attach(None)
        elif now is None or skipping or self._reach[id(now)] > first_layer:
            self._attach(self._continue)

    def close(self) -> None:
        """Leave the model as it was."""
        self._attach(None)

    def _attach(self, policy: Policy | None) -> Handle | None:
        if self._now is not None and self._now.policy is not policy:
            self._now.detach()
            self._now = None
        if self._now is None and policy is not None:
            self._now = attach(self.model, policy, self._allow_other_model)
        return self._now

    def _first_layer(self, policy: Policy) -> int:
        first = self.anatomy.first_prunable_layer
        retry = policy.retry()
        layers = [*policy.layers(self._depth, first), *(retry.then.layers(self._depth, first) if retry else ())]
        return min(layers, default=self._depth)
