"""Started as several processes (torchrun, accelerate launch): which commands share their work, and which refuse."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import wraps
from typing import Any

from ..core.errors import SettingsError
from ..core.processes import ALONE, Processes, sharing, started

__all__ = ["SHARED", "alone", "is_first"]

SHARED: Mapping[str, str] = {
    "lookaway.cli.analyze": "work",
    "lookaway.cli.calibrate": "work",
    "lookaway.cli.eval": "work",
    "lookaway.cli.fit": "work",
    "lookaway.cli.train": "work",
    "lookaway.cli.search_eas": "own",
    "lookaway.cli.train_eas": "own",
    "lookaway.cli.train_twig": "own",
}
"""A command's module -> how its work is shared among processes: 'work' by `core.processes`, 'own' by its own training
loop (accelerate, transformers' Trainer). All others compute it whole."""


def is_first() -> bool:
    """Whether this process is the one that prints and writes; also before any process has met another."""
    return started().is_first


def alone(module: str, run: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`run`, sharing its work with the other processes where several were started, or refused there.

    Raises:
        SettingsError: several processes were started and the command does not share its work: each would do the same
            again, into the same folder.
    """

    @wraps(run)
    def checked(options: Any) -> Any:
        group = started()
        if group.count == 1:
            return run(options)
        if module not in SHARED:
            raise SettingsError(
                f"This command does not share its work: each of the {group.count} processes that were started "
                "(WORLD_SIZE) would compute all of it, into one folder. Start it without torchrun or accelerate "
                "launch; for more GPUs start one process for each policy or data set, with its own "
                "CUDA_VISIBLE_DEVICES and --out. Shared are: train, calibrate, eval, analyze, "
                "fit, search --method eas."
            )
        own = SHARED[module] == "own" or getattr(options, "tasks", None) is not None
        with _quiet(group), sharing(ALONE if own else group):
            try:
                found = run(options)
                if not own:
                    group.gather(None)  # the job is done when the first process has written its result
                return found
            finally:
                group.close()

    return checked


@contextmanager
def _quiet(group: Processes) -> Iterator[None]:
    """Only the first process prints; errors are told after the command has ended."""
    if group.is_first:
        yield
        return
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        yield


GRACE = 2.0
"""Seconds that other processes leave the first one to say the same: then the launcher ends them."""


def tell_error(error: Exception) -> None:
    """An error for the user, by one process where all meet the same."""
    import time

    try:
        group = started()
    except SettingsError:  # what the launcher says makes no sense: that is the error itself
        group = ALONE
    if not group.is_first:
        time.sleep(GRACE)
    where = "" if group.is_first else f" (process {group.rank} of {group.count})"
    print(f"error{where}: {error}", file=sys.stderr, flush=True)
