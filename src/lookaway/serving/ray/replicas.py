"""The application of `lookaway serve` in Ray Serve: replicas with a model each, behind one address.

Ray starts a replica again whose process died, or whose worker ended, and sends requests to those that are alive. What a
dead replica was answering fails with status 500; nothing is sent twice.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from ...core.errors import PreparationError, SettingsError
from ..openai.limits import Limits

__all__ = ["Replicas", "serve_on_ray"]

NAME = "lookaway"
STOP_SECONDS = 40.0
"""What a replica was given may still be answered for so long once it is told to stop."""
HEALTH_SECONDS = 5.0
STARTS = 5


@dataclass(frozen=True)
class Replicas:
    """How many replicas there are; between two numbers Ray decides by the load."""

    least: int = 1
    most: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """'2', or '1-4' for as many as the load asks for.

        Raises:
            SettingsError: it is neither.
        """
        least, _, most = text.partition("-")
        with suppress(ValueError):
            found = cls(int(least), int(most or least))
            if 1 <= found.least <= found.most:
                return found
        raise SettingsError(f"--replicas takes a number from 1 on, or two with a dash (1-4), not {text!r}.")

    def settings(self, limits: Limits) -> dict[str, Any]:
        """Ray's settings for them: a replica is given what it decodes and lets wait, and says 429 itself."""
        taken = limits.max_batch + limits.max_waiting
        common = {"max_ongoing_requests": taken + 8}
        if self.least == self.most:
            return {**common, "num_replicas": self.least}
        wanted = {
            "min_replicas": self.least,
            "max_replicas": self.most,
            "target_ongoing_requests": max(limits.max_batch, 1),
        }
        return {**common, "autoscaling_config": wanted}


def serve_on_ray(
    make: Callable[[], FastAPI],
    replicas: Replicas,
    limits: Limits,
    host: str,
    port: int,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT, on the cluster of the variable RAY_ADDRESS, or on this machine alone.

    Args:
        make: builds the application in a replica's process, on whatever machine that is; it must be picklable.
        ready: called when the first replicas answer.

    Raises:
        PreparationError: the replicas did not start.
    """
    import ray
    from ray import serve

    own = "RAY_ADDRESS" not in os.environ
    ray.init(log_to_driver=True, logging_level="warning", **({"include_dashboard": False} if own else {}))
    try:
        gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
        for _ in range(STARTS):
            with suppress(TimeoutError):  # Ray gives its proxy a minute, which a busy machine needs for imports alone
                serve.start(http_options={"host": host, "port": port})
                break
        else:
            raise PreparationError(f"Ray's HTTP proxy did not start within {STARTS} minutes; /tmp/ray has its log.")
        application = deployment(make, replicas, limits, gpus)
        try:
            serve.run(application, name=NAME, route_prefix="/")
        except RuntimeError as error:
            raise PreparationError(f"The replicas did not start: {error}") from error
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):  # in place of Ray's own
            signal.signal(number, lambda *_: stop.set())
        ready()
        stop.wait()
    finally:
        serve.shutdown()
        ray.shutdown()


def deployment(make: Callable[[], FastAPI], replicas: Replicas, limits: Limits, gpus: int) -> Any:
    """The application for Ray Serve's `run`.

    Args:
        gpus: of each replica.
    """
    from ray import serve

    class Replica:
        """One process with a model of its own."""

        def __serve_build_asgi_app__(self) -> FastAPI:
            self.made = without_metrics(make())
            return self.made

        def check_health(self) -> None:
            if not self.made.state.worker.alive:
                raise RuntimeError("The worker ended; its log says why.")

    return serve.deployment(
        name=NAME,
        ray_actor_options={"num_gpus": gpus},
        health_check_period_s=HEALTH_SECONDS,
        graceful_shutdown_timeout_s=STOP_SECONDS,
        **replicas.settings(limits),
    )(serve.ingress()(Replica)).bind()


def without_metrics(app: FastAPI) -> FastAPI:
    """The application without its counters: each replica has its own, and nobody could say whose these are."""
    app.router.routes = [route for route in app.router.routes if getattr(route, "path", None) != "/metrics"]

    @app.get("/metrics")
    async def metrics() -> None:
        raise HTTPException(
            404, "Replicas count for themselves. Ray has metrics of the load, usage.lookaway of answers."
        )

    return app
