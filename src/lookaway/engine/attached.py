"""Which models have a policy attached, and which layers a policy may be asked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from ..anatomy.base import Anatomy
from ..core.decision import Policy
from ..core.errors import AttachError, SettingsError

__all__ = ["check_detached", "policy_layers", "register"]

_attached: WeakValueDictionary[int, Any] = WeakValueDictionary()
"""What is attached, by the id of the backbone; the hooks keep a handle alive as long as its model lives."""


def register(anatomy: Anatomy, handle: Any) -> Callable[[], object]:
    """Note that `handle`, whose `policy` is attached, belongs to this model; returns what takes that back."""
    _attached[id(anatomy.backbone)] = handle
    return lambda: _attached.pop(id(anatomy.backbone), None)


def check_detached(anatomy: Anatomy) -> None:
    """Raise AttachError where a policy is attached to this model."""
    other = _attached.get(id(anatomy.backbone))
    if other is not None:
        raise AttachError(
            f"{other.policy!r} is attached to this model already. Detach it first, or join the two: "
            "la.attach(model, la.chain(first, second))."
        )


def policy_layers(policy: Policy, anatomy: Anatomy, looks_again: bool = False, grows: bool = False) -> frozenset[int]:
    """The layers before which `policy` is asked on this model.

    Args:
        looks_again: the caller carries out `policy.retry()` too.
        grows: the caller carries out `policy.twig()` too.

    Raises:
        AttachError: it is no policy, wants layers that cannot be pruned, or has two passes where one is carried out.
        UnsupportedModel: it wants to remove inside a decoder that allows removal before it only.
    """
    if not isinstance(policy, Policy):
        raise AttachError(f"{policy!r} is no policy. la.policies() lists them, la.load(path) reads a saved one.")
    if policy.retry() is not None and not looks_again:
        raise AttachError(
            "A second look is carried out by la.attach alone. Here give one of its two policies: policy.first, or "
            "policy.retry().then."
        )
    if policy.twig() is not None and not grows:
        raise AttachError(
            "A twig is carried out by la.attach and la.reference alone, not by runs that start from stored states. "
            "Leave it out here."
        )
    first, last = anatomy.first_prunable_layer, anatomy.num_layers
    if anatomy.only_before:
        return _before_alone(policy, anatomy)
    layers = frozenset(policy.layers(last, first))
    wrong = sorted(layer for layer in layers if layer and not first <= layer < last)
    if wrong:
        raise AttachError(
            f"{policy!r} wants to remove before layers {wrong}; this model allows 0 (before the decoder) and {first} "
            f"to {last - 1} ({type(anatomy.language_model).__name__}, {last} layers)."
        )
    return layers


def _before_alone(policy: Policy, anatomy: Anatomy) -> frozenset[int]:
    """The same on a decoder that visual tokens may leave before it only: layer 0, or none."""
    try:
        layers = frozenset(policy.layers(anatomy.num_layers, anatomy.num_layers))
    except SettingsError:  # its own words name layers that this decoder does not offer
        anatomy.require_inside(f"Removal inside the decoder ({policy!r})")
        raise
    if layers - {0}:
        anatomy.require_inside(f"Removal inside the decoder ({policy!r})")
    return layers
