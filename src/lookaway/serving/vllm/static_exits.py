"""What is known about a policy before any prompt was seen: the layer from which on no visual token is left."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.decision import Policy
from ...core.errors import SettingsError
from ...policies.baselines.vtw import VTW
from ...policies.compose import Chain
from ...policies.fixed import ExitAt
from ...policies.ranked import RankedPolicy, is_all
from .kept_counts import before_decoder

__all__ = ["empty_from", "in_two", "is_static"]


def empty_from(policy: Policy, num_layers: int) -> int:
    """The first layer that no visual token reaches, whatever the prompt; `num_layers` where that depends on the prompt
    or where visual tokens stay to the end.

    Raises:
        SettingsError: the policy names rows of a batch, which in a server come and go.
    """
    if isinstance(policy, Chain):
        return min((empty_from(part, num_layers) for part in policy.parts), default=num_layers)
    if isinstance(policy, ExitAt | VTW):
        if isinstance(policy.layer, Sequence):
            raise SettingsError(
                f"ExitAt with one layer a row ({list(policy.layer)}) cannot be served: rows of a batch come and "
                "go. Give one layer, or several policies by name and choose one for each request."
            )
        return num_layers if policy.layer is None else policy.layer
    if isinstance(policy, RankedPolicy):
        entries = policy.entries(num_layers)
        return next((layer for layer, entry in enumerate(entries) if entry == 0), num_layers)
    return num_layers


def is_static(policy: Policy, num_layers: int) -> bool:
    """Whether the policy decides without looking: all visual tokens leave before `empty_from`, and none before."""
    if policy.retry() is not None:
        return False
    if isinstance(policy, Chain):
        return all(is_static(part, num_layers) for part in policy.parts)
    if not policy.layers(num_layers, 1):
        return True
    if isinstance(policy, RankedPolicy):
        return all(entry == 0 or is_all(entry) for entry in policy.entries(num_layers))
    return isinstance(policy, ExitAt | VTW)


def in_two(policy: Policy, num_layers: int) -> tuple[Policy | None, Policy | None]:
    """(what shortens prompts before the decoder, what acts inside it); None: nothing.

    A chain is taken apart where a fixed exit follows a choice before the decoder. Other policies that follow one look
    at the whole prompt, so such a chain runs inside the decoder as it is.
    """
    if before_decoder(policy, num_layers):
        return policy, None
    if isinstance(policy, Chain) and len(policy.parts) > 1 and before_decoder(policy.parts[0], num_layers):
        rest = Chain(policy.parts[1:])
        if is_static(rest, num_layers):
            return policy.parts[0], rest
    return None, policy
