"""Started as several processes (torchrun, accelerate launch): which commands share their work, and which refuse."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from ..core.errors import SettingsError

__all__ = ["SHARED", "alone"]

SHARED: Mapping[str, Callable[[Any], bool]] = {
    "lookaway.cli.eval": lambda options: options.tasks is not None,
    "lookaway.cli.search_eas": lambda options: True,
    "lookaway.cli.train_eas": lambda options: True,
    "lookaway.cli.tune": lambda options: True,
}
"""A command's module -> whether its work is shared among the processes, by its options. All others compute it whole."""


def alone(module: str, run: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`run`, refused in one of several processes where each would do the same work again, into the same folder.

    Raises:
        SettingsError: WORLD_SIZE, which launchers set, is above 1 and the command does not share its work.
    """

    @wraps(run)
    def checked(options: Any) -> Any:
        size = os.environ.get("WORLD_SIZE", "1")
        shared = SHARED.get(module, lambda options: False)
        if size.isdigit() and int(size) > 1 and not shared(options):
            raise SettingsError(
                f"This command does not share its work: each of the {size} processes that were started (WORLD_SIZE) "
                "would compute all of it, into one folder. Start it without torchrun or accelerate launch; for more "
                "GPUs start one process for each policy or data set, with its own CUDA_VISIBLE_DEVICES and --out. "
                "Shared are: eval --tasks, search --method eas, train --method eas, tune."
            )
        return run(options)

    return checked
