"""Atomic writing: a reader, or a kill, never meets half a file or half a folder."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .errors import LookawayError

__all__ = ["atomic_directory", "atomic_path", "cache_root", "held", "write_json", "write_text"]


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """Where downloads and prepared files live: the argument, or $LOOKAWAY_CACHE, or ~/.cache/lookaway."""
    return Path(cache_dir or os.environ.get("LOOKAWAY_CACHE") or Path.home() / ".cache" / "lookaway")


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it replaces `target`, on any error it is removed.

    Raises:
        LookawayError: the disk is full or the folder cannot be written; what was there before is untouched.
    """
    target = Path(target)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except (OSError, SafetensorError) as error:  # safetensors tells of a full disk in its own words
        reason = getattr(error, "strerror", None) or error
        raise LookawayError(f"Could not write {target}: {reason}. Nothing was replaced.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(target: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; on success it becomes `target`, on any error it is removed.

    Raises:
        LookawayError: `target` exists and is not empty (nothing a user has is replaced), or the disk refuses.
    """
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise LookawayError(f"{target} exists already. Choose another folder, or remove it first.")
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        yield temporary
        os.chmod(temporary, 0o755)
        os.replace(temporary, target)
    except OSError as error:
        raise LookawayError(f"Could not write {target}: {error.strerror or error}. Nothing was replaced.") from error
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Keep `folder` from other processes that ask for it too, which wait; a process that was killed holds nothing.

    Where the system or the disk knows no such locks (Windows, some network disks) nothing is kept.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with (Path(folder) / ".lock").open("w") as file:
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file is closed
        yield


def write_text(target: str | Path, text: str) -> Path:
    """Write a text file atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(target)


def write_json(target: str | Path, value: Any) -> Path:
    """Write JSON atomically, indented and with a final newline."""
    return write_text(target, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
