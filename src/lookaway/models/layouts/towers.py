"""The vision tower that a checkpoint only names: where its folder may lie, and what to do where it does not."""

from __future__ import annotations

from pathlib import Path

from ...core.errors import PreparationError
from .reader import weight_files
from .request import Request

__all__ = ["find_tower"]


def find_tower(request: Request, name: str, needed: bool = True) -> Path | None:
    """The folder of the tower `name` (a hub id or a path): `--vision-tower`, beside the model, or the hub's cache.

    Args:
        needed: False: only its config is wanted, and None is an answer.

    Raises:
        PreparationError: it is needed and is nowhere; the text says what to fetch and where to put it.
    """
    given = request.vision_tower
    if given is not None:
        if not (given / "config.json").is_file():
            raise PreparationError(f"The vision tower's folder {given} has no config.json: give the folder of {name}.")
        if needed and not weight_files(given):
            raise PreparationError(f"The vision tower's folder {given} has no weights: download {name} completely.")
        return given
    for folder in places(request.folder, name):
        if (folder / "config.json").is_file() and (weight_files(folder) or not needed):
            return folder
    fetched = _from_hub(name, needed)
    if fetched is not None or not needed:
        return fetched
    raise PreparationError(
        f"{request.folder} does not hold its vision tower, {name}, only its name. Download that model (config.json, "
        f"preprocessor_config.json and weights) and give its folder as --vision-tower DIR (vision_tower= in Python), "
        f"or put it where it is found by itself: {places(request.folder, name)[0]}."
    )


def places(folder: Path, name: str) -> list[Path]:
    """Where a tower is looked for: inside the model's folder and beside it, by its whole name and its last part."""
    path = Path(name)
    if path.is_absolute():
        return [path]
    roots = [folder, folder.parent, folder.parent / "towers", folder.parent.parent / "towers"]
    return [root / part for root in roots for part in (path, Path(path.name))]


def _from_hub(name: str, weights: bool) -> Path | None:
    """From the hub, or its cache where there is no network; None where neither has it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", *(["*.safetensors", "*.bin"] if weights else [])]
    try:
        found = Path(snapshot_download(name, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError):
        return None
    return found if (found / "config.json").is_file() and (weight_files(found) or not weights) else None
