"""An observation keeps what it saw in one place, so it sees one forward at a time; a second one at once is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import nn

from ...core.errors import AttachError

__all__ = ["one_forward_at_a_time"]


def one_forward_at_a_time(backbone: nn.Module) -> list[Callable[[], object]]:
    """Refuse a forward of `backbone` that begins while another thread's runs.

    Returns:
        What takes the hooks off.
    """
    running: list[int] = []
    lock = threading.Lock()

    def begin(module: nn.Module, args: Any) -> None:
        with lock:
            if running:
                raise AttachError(
                    "This model is observed, and an observation sees one forward at a time: another thread's is "
                    "running. Call the model from one thread while it is observed, or stop the observation first."
                )
            running.append(threading.get_ident())

    def end(module: nn.Module, args: Any, output: Any) -> None:
        with lock:
            if running and running[0] == threading.get_ident():
                running.clear()

    return [
        backbone.register_forward_pre_hook(begin).remove,
        backbone.register_forward_hook(end, always_call=True).remove,
    ]
