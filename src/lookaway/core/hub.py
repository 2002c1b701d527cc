"""Which names the model hub may know, so a mistyped path is not looked up there for half a minute."""

from __future__ import annotations

from pathlib import Path

__all__ = ["may_be_hub_id"]


def may_be_hub_id(name: str) -> bool:
    """'user/name', where no folder 'user' lies here: any other name can only be a path."""
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and parts[0] not in (".", "..", "~") and not Path(parts[0]).is_dir()
