"""A published checkpoint's folder: as it lies here, or from the hub where its config is of a published layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.errors import PreparationError
from .detection import LAYOUTS, REFUSED

__all__ = ["published_folder"]


def published_folder(path_or_id: str | Path) -> Path | None:
    """The folder; None for a hub id that cannot be had or is of no published layout (transformers takes it from there).

    Of a hub id only config.json is fetched first, and the rest where the layout is one of those that are read here.

    Raises:
        PreparationError: there is no such folder and no hub, or the layout is one of these and the rest cannot be
            fetched.
    """
    path = Path(path_or_id)
    if path.is_dir():
        return path
    if path.exists() or path.is_absolute():
        return None
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        config = json.loads(Path(hf_hub_download(str(path_or_id), "config.json")).read_text(encoding="utf-8"))
    except LocalEntryNotFoundError as error:  # neither the cache nor the network: transformers would ask once more
        raise PreparationError(
            f"Cannot load {path_or_id}: it is no folder here, and the hub did not give it: check the name and the "
            "network, or download the model elsewhere and give its folder. The default model needs no hub: --model "
            "lookaway-mini."
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError, ValueError):
        return None
    if not isinstance(config, dict) or not _published(config):
        return None
    try:
        return Path(snapshot_download(str(path_or_id), ignore_patterns=["*.py", "*.md", "*.png", "*.jpg", "*.mp4"]))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise PreparationError(
            f"{path_or_id} cannot be fetched from the hub ({str(error).splitlines()[0]}). Download it elsewhere and "
            "give its folder."
        ) from error


def _published(config: Mapping[str, Any]) -> bool:
    return any(layout.matches(config) for layout in LAYOUTS) or any(is_so(config) for is_so, _, _ in REFUSED)
