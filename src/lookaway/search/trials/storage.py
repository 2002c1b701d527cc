"""Where the trials of a search are written down, for one worker or many, and who is still alive.

A journal file (default) or SQLite file serves the workers of one machine, a database by URL those of many. Optuna
(extra 'search') does the writing; importing lookaway does not import it.
"""

from __future__ import annotations

import os
import socket
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from ...core.errors import MissingDependency, PreparationError, SettingsError

__all__ = ["alive", "open_storage", "optuna", "this_worker"]


def optuna() -> Any:
    """The optuna package, silenced but for warnings.

    Raises:
        MissingDependency: it is not installed; the text names the extra.
    """
    try:
        import optuna as package
    except ImportError:
        raise MissingDependency.of("optuna", "search") from None
    package.logging.set_verbosity(package.logging.WARNING)
    return package


def open_storage(spec: str | Path) -> Any:
    """Open, or make, the storage of a search.

    Args:
        spec: a file ending in .journal, or in .db / .sqlite; a database URL (postgresql://user:password@host/name);
            'memory' for a search that leaves nothing behind.

    Raises:
        SettingsError: none of these.
        PreparationError: it cannot be reached or written; the text says which (without its password) and why.
    """
    package = optuna()
    text = str(spec)
    if text == "memory":
        return package.storages.InMemoryStorage()
    suffix = Path(text).suffix
    if "://" not in text and suffix not in (".journal", ".db", ".sqlite"):
        raise SettingsError(
            f"The storage {text!r} is neither a .journal, .db or .sqlite file nor a database URL "
            "(postgresql://user:password@host/name)."
        )
    try:
        if "://" in text:
            return _database(package, text)
        Path(text).parent.mkdir(parents=True, exist_ok=True)
        if suffix != ".journal":
            return _database(package, f"sqlite:///{text}")
        with Path(text).open("ab"):
            pass
        backend = package.storages.journal.JournalFileBackend(text)
        return package.storages.JournalStorage(backend)
    except Exception as error:  # each database driver has errors of its own
        if isinstance(error, ImportError):
            cure = (
                f"its driver is not installed ({str(error).rstrip('.')}). For PostgreSQL: pip install "
                "'lookaway[postgres]'"
            )
        else:
            cure = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        raise PreparationError(
            f"The storage {_without_password(text)} cannot be used: {cure}. Check address, rights and network, or let "
            "--storage name a file."
        ) from error


def _database(package: Any, url: str) -> Any:
    """Open a database; workers that begin at once on an empty one get in each other's way while its tables are made."""
    for _ in range(20):
        try:
            return package.storages.RDBStorage(url)
        except Exception as error:
            if type(error).__name__ != "IntegrityError" and "already exists" not in str(error):
                raise
            time.sleep(0.5)
    return package.storages.RDBStorage(url)


def this_worker() -> dict[str, Any]:
    """Who runs a trial: host, process, and when that process began."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())}


def alive(worker: dict[str, Any] | None, since: datetime | None, lease: float) -> bool:
    """Whether the worker of a trial that began at `since` may still be at it.

    On this machine its process is looked for; on another, a trial is given up after `lease` seconds.
    """
    if worker is not None and worker["host"] == socket.gethostname():
        try:
            os.kill(worker["pid"], 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # somebody else's process
        return bool(_born(worker["pid"]) == worker["born"])
    return since is None or (datetime.now() - since).total_seconds() < lease


def _born(pid: int) -> str:
    """When a process began, so that a number used again is not taken for it; '' where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else f"{boot}:{fields[19]}"


def _without_password(text: str) -> str:
    if "://" not in text:
        return text
    scheme, _, rest = text.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0] + ':***' if ':' in user else user}{at}{host}"
