"""Runs the application in this process until a signal ends it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from ...core.errors import PreparationError
from .limits import Limits

__all__ = ["run_server"]

GRACE_SECONDS = 30
"""Answers that are under way may still be sent for so long after the signal."""


class _Server(uvicorn.Server):
    """Ends with status 0 after SIGTERM or SIGINT: stopping gracefully is what was asked for."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


def run_server(app: Any, host: str, port: int, limits: Limits) -> None:
    """Serve until SIGTERM or SIGINT; then no new requests are taken, and those taken are answered.

    Raises:
        PreparationError: the address cannot be used.
    """
    # Beyond this many connections uvicorn answers 503 by itself, before a body is read.
    connections = 4 * (limits.max_batch + limits.max_waiting) + 64
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", access_log=False, limit_concurrency=connections,
        timeout_graceful_shutdown=GRACE_SECONDS, server_header=False,
    )  # fmt: skip
    server = _Server(config)
    try:
        server.run()
    except SystemExit:
        raise PreparationError(
            f"Cannot serve at {host}:{port}; the line above says why. Give another --port."
        ) from None
