"""What an earlier run left: gone on from where it depends on the same (`provenance.py`), else refused by name.

The error says what differs, old value and new value, and how to start anew.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import StaleResults
from .files import write_json
from .provenance import plain

__all__ = ["claim", "differences", "require_same", "start_anew"]

CURE = "Give another --out, or --fresh to start anew in this one."


def require_same(
    theirs: Mapping[str, Any] | None, ours: Mapping[str, Any], where: str | Path, cure: str = CURE
) -> None:
    """Refuse what another provenance left in `where`; `cure` says what to do, where it is no --out.

    Raises:
        StaleResults: they differ, or `theirs` is None: files of lookaway 0.1 do not tell.
    """
    if theirs is None:
        raise StaleResults(
            f"{where} does not say what its results depend on (lookaway 0.1 wrote no provenance). {cure}"
        )
    found = differences(theirs, plain(ours))
    if found:
        raise StaleResults(f"{where} is of another run. Different now: {'; '.join(found)}. {cure}")


def claim(folder: Path, facts: Mapping[str, Any], fresh: bool = False, leftovers: Sequence[Path] = ()) -> None:
    """Make `folder` this run's, so that what an interrupted run left there may be used.

    Args:
        facts: what the results depend on; kept in `folder/provenance.json`.
        fresh: remove the leftovers first, whatever they depend on.
        leftovers: files and folders that a run goes on from.

    Raises:
        StaleResults: the folder holds leftovers of a run that depends on something else.
    """
    file = folder / "provenance.json"
    if fresh:
        start_anew(file, *leftovers)
    try:
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    except ValueError:
        known = None
    if known is not None or any(path.exists() for path in leftovers):
        require_same(known, facts, folder)
    write_json(file, facts)


def differences(theirs: Any, ours: Any, name: str = "") -> list[str]:
    """Each value that differs, as 'name: old -> new'."""
    if not (isinstance(theirs, Mapping) and isinstance(ours, Mapping)):
        return [] if theirs == ours else [f"{name}: {_short(theirs)} -> {_short(ours)}"]
    found = []
    for key in sorted(theirs.keys() | ours.keys(), key=str):
        at = f"{name}.{key}" if name else str(key)
        found += differences(theirs.get(key, "nothing"), ours.get(key, "nothing"), at)
    own = [line for line in found if not line.startswith(f"{name}.digest: ")]
    return own or found  # settings say more than the digest over them


def start_anew(*paths: Path) -> None:
    """What --fresh does: remove what earlier runs of a command left in its folder."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) == 32 and all(c in "0123456789abcdef" for c in text):
        return text[:12]
    return text if len(text) <= 80 else f"{text[:77]}..."
