"""A folder's JSON files, of which each is one object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...core.errors import PreparationError

__all__ = ["read_json"]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file, or {} where there is none.

    Raises:
        PreparationError: it cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PreparationError(f"{path} cannot be read ({error}). Copy or download it again.") from error
    if not isinstance(found, dict):
        raise PreparationError(f"{path} does not hold one JSON object. Copy or download it again.")
    return found
