"""The FastAPI application around one model: its routes, its errors, its beginning and its end."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ...core.decision import Policy
from ...core.errors import SettingsError
from ..batching.worker import Worker
from ..playground.files import playground_routes
from .chat import OFF, ChatEndpoint
from .errors import ApiError, error_body
from .http_input import check_key
from .limits import Limits
from .metrics import Metrics
from .preparing import Preparer, context_length

__all__ = ["make_app"]

LOG = logging.getLogger("lookaway.serving")
STOP_SECONDS = 30.0
"""What was taken may still be answered for so long once the server is told to stop."""


def make_app(
    model: Any,
    processor: Any,
    policies: Mapping[str, Policy],
    name: str,
    default: str | None = None,
    limits: Limits | None = None,
    keys: Collection[str] = (),
    playground: bool = True,
    allow_other_model: bool = False,
) -> FastAPI:
    """An OpenAI-compatible application that serves one model with several policies.

    Args:
        model: a Hugging Face VLM without a policy attached; from now on it belongs to the application.
        processor: its processor.
        policies: name -> policy; 'off' is taken.
        name: the model's name in requests and answers.
        default: the policy of requests that choose none, or 'off'; None: the first policy, without any 'off'.
        limits: what clients may ask; None: the defaults.
        keys: API keys, one of which each request under /v1 must carry; empty: none is needed.
        playground: serve the page at '/'.

    Raises:
        SettingsError: 'off' names a policy, or the default names none.
        LookawayError: a policy does not fit the model.
    """
    limits = limits or Limits()
    if OFF in policies:
        raise SettingsError(f"A policy is called {OFF!r}, which is how requests ask for none. Give it another name.")
    default = default or next(iter(policies), OFF)
    if default != OFF and default not in policies:
        raise SettingsError(f"The default policy {default!r} is none of {', '.join(map(repr, [*policies, OFF]))}.")
    worker = Worker(model, processor, policies, limits.max_batch, limits.max_waiting, allow_other_model)
    metrics = Metrics(lambda: worker.waiting, lambda: worker.running)
    preparer = Preparer(processor, limits, context_length(model))
    chat = ChatEndpoint(worker, preparer, limits, metrics, name, default)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.stop(timeout=STOP_SECONDS)
        chat.close()

    app = FastAPI(title="lookaway serve", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.worker = worker

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def no_such_route(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code, headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        LOG.error("a request failed", exc_info=error)
        return JSONResponse(error_body(500, "The server failed on this request; its log says why."), 500)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        check_key(request, keys)
        return await chat(request)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        check_key(request, keys)
        own = {"policies": [*policies, OFF], "default": default, "num_layers": worker.switch.anatomy.num_layers}
        entry = {"id": name, "object": "model", "created": 0, "owned_by": "lookaway", "lookaway": own}
        return JSONResponse({"object": "list", "data": [entry]})

    @app.get("/health")
    async def health() -> Response:
        state = {"waiting": worker.waiting, "running": worker.running}
        if not worker.alive:
            return JSONResponse({"status": "stopping", **state}, 503)
        return JSONResponse({"status": "ok", "model": name, **state})

    @app.get("/metrics")
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    if playground:
        app.router.routes.extend(playground_routes())
    return app
