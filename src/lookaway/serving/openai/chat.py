"""`POST /v1/chat/completions`: from the body to the answer, whole or as a stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from ..batching.requests import Failed, Finished, Generation, Piece, QueueFull, Stopping
from ..batching.worker import Worker
from .answers import Answer, failed, sse
from .errors import ApiError
from .http_input import read_body, until_gone
from .limits import Limits
from .metrics import Metrics
from .preparing import Preparer
from .request_body import ChatRequest, read_chat_request

__all__ = ["OFF", "ChatEndpoint"]

OFF = "off"
"""The name by which a request asks for no policy."""
GONE = 499
"""Status, for the log, of a request whose client did not wait for the answer."""
Event = Piece | Finished | Failed


class ChatEndpoint:
    """Answers chat requests with one worker.

    Args:
        name: the model's name in answers; requests that name another model are refused.
        default: name of the policy of requests that choose none; may be 'off'.
    """

    def __init__(
        self, worker: Worker, preparer: Preparer, limits: Limits, metrics: Metrics, name: str, default: str
    ) -> None:
        self._worker, self._preparer, self._limits, self._metrics = worker, preparer, limits, metrics
        self._name, self._default = name, default
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="lookaway-prepare")

    async def __call__(self, request: Request) -> Response:
        """Answer; errors come as `ApiError`."""
        try:
            response = await self._answer(request)
        except ApiError as error:
            self._metrics.answered(error.status)
            raise
        except ClientDisconnect:
            self._metrics.aborted()
            return Response(status_code=GONE)
        if response.status_code != GONE:
            self._metrics.answered(response.status_code)
        return response

    async def _answer(self, request: Request) -> Response:
        arrived = time.monotonic()
        chat = read_chat_request(await read_body(request, self._limits.max_body_bytes))
        if chat.model not in (None, "", self._name):
            raise ApiError(404, f"There is no model {chat.model[:200]!r} here: this server serves {self._name!r}.",
                           "model", "model_not_found")  # fmt: skip
        policy = self._policy(chat.lookaway.policy)
        self._preparer.check(chat)
        gone = asyncio.create_task(until_gone(request))
        stream = _Events(gone)
        try:
            generation = await self._submitted(chat, policy, arrived, stream)
        except BaseException:
            gone.cancel()
            raise
        run = _Run(self, generation, stream, Answer(self._name), arrived, policy or OFF)
        try:
            first = await stream.next()
        except BaseException:
            run.close()
            raise
        if isinstance(first, Failed):
            run.close()
            raise failed(first)
        if first is None:
            self._metrics.aborted()
            run.close()
            return Response(status_code=GONE)
        if chat.stream:
            with_usage = chat.stream_options is not None and chat.stream_options.include_usage
            return StreamingResponse(run.streamed(first, with_usage), media_type="text/event-stream",
                                     headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})  # fmt: skip
        return await run.whole(first)

    def _policy(self, name: str | None) -> str | None:
        name = self._default if name is None else name
        if name == OFF:
            return None
        if name not in self._worker.switch.policies:
            known = ", ".join(map(repr, [*self._worker.switch.policies, OFF]))
            raise ApiError(400, f"There is no policy {name[:200]!r} here. Known: {known}.", "lookaway.policy",
                           "unknown_policy")  # fmt: skip
        return name

    async def _submitted(self, chat: ChatRequest, policy: str | None, arrived: float, stream: _Events) -> Generation:
        """The generation, handed to the worker; its place is reserved before any work is done."""
        try:
            self._worker.reserve()
        except QueueFull as error:
            seconds = f"{error.seconds:.0f}"
            raise ApiError(429, str(error), None, "queue_full", {"Retry-After": seconds}) from None
        except Stopping:
            raise failed(Failed("stopping", "The server is stopping.")) from None
        loop = asyncio.get_running_loop()

        def emit(event: Event) -> None:
            with suppress(RuntimeError):  # the loop has ended, and with it everybody who would listen
                loop.call_soon_threadsafe(stream.put, event)

        try:
            generation = await loop.run_in_executor(self._pool, self._preparer.generation, chat, policy, arrived, emit)
        except BaseException:
            self._worker.release()
            raise
        self._worker.submit(generation)
        return generation

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Events:
    """What the worker says to one request, for the event loop."""

    def __init__(self, gone: asyncio.Task[None]) -> None:
        self.gone = gone
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def put(self, event: Event) -> None:
        self._events.put_nowait(event)

    async def next(self) -> Event | None:
        """The next event; None: the client has gone away."""
        if not self._events.empty():
            return self._events.get_nowait()
        getting = asyncio.ensure_future(self._events.get())
        try:
            await asyncio.wait((getting, self.gone), return_when=asyncio.FIRST_COMPLETED)
            return getting.result() if getting.done() else None
        finally:
            getting.cancel()


class _Run:
    """A request that was handed to the worker, until its answer is out or nobody waits for it."""

    def __init__(self, endpoint: ChatEndpoint, generation: Generation, events: _Events, answer: Answer, arrived: float,
                 policy: str) -> None:  # fmt: skip
        self._metrics, self._generation, self._events, self._answer = endpoint._metrics, generation, events, answer
        self._arrived, self._policy = arrived, policy
        self._ended = self._spoken = False

    def close(self) -> None:
        """Nothing more is wanted."""
        self._events.gone.cancel()
        self._generation.cancel()

    async def whole(self, event: Event | None) -> Response:
        """The answer as one object."""
        text: list[str] = []
        try:
            while isinstance(event, Piece):
                self._note(event)
                text.append(event.text)
                event = await self._events.next()
            if event is None:
                self._metrics.aborted()
                return Response(status_code=GONE)
            if isinstance(event, Failed):
                raise failed(event)
            self._note(event)
            return JSONResponse(self._answer.whole("".join(text), event))
        finally:
            self.close()

    async def streamed(self, event: Event | None, with_usage: bool) -> AsyncIterator[str]:
        """The answer as server-sent events. An error in the middle of it is its last event, without '[DONE]'."""
        answer, ended = self._answer, False
        try:
            yield sse(answer.chunk({"role": "assistant", "content": ""}))
            while isinstance(event, Piece):
                self._note(event)
                yield sse(answer.chunk({"content": event.text}))
                event = await self._events.next()
            if event is None:
                return
            ended = True
            if isinstance(event, Failed):
                yield sse(failed(event).body)
                return
            self._note(event)
            yield sse(answer.chunk({}, event.reason))
            if with_usage:
                yield sse(answer.usage_chunk(event))
            yield sse("[DONE]")
        finally:
            if not ended:
                self._metrics.aborted()
            self.close()

    def _note(self, event: Piece | Finished) -> None:
        seconds = time.monotonic() - self._arrived
        if isinstance(event, Finished):
            self._metrics.finished(event, seconds)
        elif not self._spoken:
            self._spoken = True
            self._metrics.first_text(self._policy, seconds)
