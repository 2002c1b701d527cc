"""A policy from what a file says: its name, settings and weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..core.decision import Policy
from ..core.errors import DataError, LookawayError
from ..core.registry import registered_policies
from ..core.settings import check_settings

__all__ = ["build_policy"]


def build_policy(name: Any, config: Any, tensors: dict[str, Tensor], where: str) -> Policy:
    """Make the policy `name`.

    Args:
        where: the file, and the place in it, for messages.

    Raises:
        LookawayError: no such policy, or settings that it does not take; one line that names file, key, value and cure.
    """
    if not isinstance(name, str):
        raise DataError(
            f"{where}: 'policy' is {name!r}, but must be the name of a policy (lookaway policies lists them)."
        )
    config = {} if config is None else config
    if not isinstance(config, dict):
        raise DataError(
            f"{where}: 'config' is {config!r}, but must map settings to values. Write config: {{}} for none."
        )
    try:
        kind = registered_policies[name]
        check_settings(kind, config, complete=_takes_settings(kind))
        return kind.from_config(config, tensors)
    except LookawayError as error:
        raise type(error)(f"{where}: {name}: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise DataError(
            f"{where}: these are no settings of {name!r} ({error!r}). Correct the file, or save it again."
        ) from error


def _takes_settings(kind: type[Policy]) -> bool:
    """Its settings are what its constructor takes: it has no `from_config` of its own."""
    from .ranked import RankedPolicy

    own = getattr(kind.from_config, "__func__", None)
    return own in (Policy.from_config.__func__, RankedPolicy.from_config.__func__)  # type: ignore[attr-defined]
