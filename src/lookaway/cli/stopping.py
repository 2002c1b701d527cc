"""A command that is told to end (SIGTERM, as `timeout` and schedulers send it) can say what it has finished."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["sigterm_as_interrupt"]


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM inside raises KeyboardInterrupt, as Ctrl-C does; in another thread than the main one nothing changes,
    since Python lets only that one choose.

    Raises:
        KeyboardInterrupt: SIGTERM came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
