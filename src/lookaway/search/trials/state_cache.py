"""Where paused runs lie between trials: in memory, and beyond a limit in files of a temporary folder."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.errors import LookawayError
from ...engine.replay.resume import Paused

__all__ = ["StateCache"]


class StateCache:
    """Paused runs, one a batch. Their states (hidden rows, queries, keys) count towards the limit; the masks that all
    trials share do not.

    Args:
        limit: bytes of states kept in memory, over all entries; what goes beyond lies on disk.
        folder: parent of the temporary folder; None: the system's.
    """

    def __init__(self, limit: int = 4 * 2**30, folder: str | Path | None = None) -> None:
        self.limit = limit
        self.on_disk = 0
        """Bytes that lie on disk now."""
        self._folder: Any = None
        self._parent = folder
        self._used = 0
        self._count = 0

    def store(self, runs: Sequence[Paused]) -> list[Stored]:
        return [self.put(run) for run in runs]

    def put(self, run: Paused) -> Stored:
        """Keep a run; `get` gives it back, `drop` frees it.

        Raises:
            LookawayError: the disk is full.
        """
        tensors = _tensors(run)
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if self._used + size <= self.limit:
            self._used += size
            return Stored(run, None, size)
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        try:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="lookaway-search-", dir=self._parent)
            file = Path(self._folder.name) / f"{self._count}.safetensors"
            self._count += 1
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)
        except (OSError, SafetensorError) as error:
            raise LookawayError(
                f"The states of the search do not fit on the disk ({error}). Use fewer samples (--limit), or give a "
                "folder with room: TMPDIR=/path."
            ) from error
        self.on_disk += size
        empty = {name: tensor.new_empty(0) for name, tensor in tensors.items()}
        return Stored(_with(run, empty), file, size)

    def get(self, stored: Stored) -> Paused:
        if stored.file is None:
            return stored.run
        from safetensors.torch import load_file

        device = stored.run.hidden.device
        return _with(stored.run, {name: tensor.to(device) for name, tensor in load_file(stored.file).items()})

    def drop(self, entries: Sequence[Stored]) -> None:
        for stored in entries:
            if stored.file is None:
                self._used -= stored.size
            else:
                stored.file.unlink(missing_ok=True)
                self.on_disk -= stored.size

    def close(self) -> None:
        """Remove the temporary folder."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


class Stored:
    """One run in the cache."""

    def __init__(self, run: Paused, file: Path | None, size: int) -> None:
        self.run, self.file, self.size = run, file, size


def _tensors(run: Paused) -> dict[str, Tensor]:
    found = {"hidden": run.hidden}
    if run.seen is not None:
        found |= {"queries": run.seen.queries, "keys": run.seen.keys}
    return found


def _with(run: Paused, tensors: dict[str, torch.Tensor]) -> Paused:
    seen = run.seen
    if seen is not None:
        seen = replace(seen, queries=tensors["queries"], keys=tensors["keys"])
    return replace(run, hidden=tensors["hidden"], seen=seen)
