"""What several commands share: which policy is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.errors import DataError

if TYPE_CHECKING:
    from ..core.decision import Policy

__all__ = ["choose_policy"]


def choose_policy(model: str, policy: str | None, exit_at: int | None) -> Policy:
    """The policy that --policy or --exit-at names; for the default models their own gates where neither is given."""
    import lookaway as la

    if policy is not None and exit_at is not None:
        raise DataError(f"Give either --policy ({policy}) or --exit-at ({exit_at}), not both.")
    if exit_at is not None:
        return la.ExitAt(exit_at)
    if policy is not None:
        return la.load(policy)
    if model.startswith("lookaway-mini"):
        from ..hosts.mini import shipped_gates

        return la.load(shipped_gates(model))
    raise DataError("No policy: give --policy DIR (from `lookaway train`) or --exit-at LAYER.")
