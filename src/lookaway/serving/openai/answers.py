"""Answers in the forms of the OpenAI API: one object, or a stream of server-sent events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

from ..batching.requests import Failed, Finished
from .errors import ApiError

__all__ = ["Answer", "failed", "sse"]

STATUS = {"deadline": 504, "stopping": 503, "refused": 400, "internal": 500}


def failed(failure: Failed) -> ApiError:
    """The error that a failed generation is answered with."""
    headers = {"Retry-After": "5"} if failure.reason == "stopping" else None
    return ApiError(STATUS[failure.reason], failure.message, None, failure.reason, headers)


def sse(data: Mapping[str, Any] | str) -> str:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n"


class Answer:
    """The identity of one answer, and its objects."""

    def __init__(self, model: str) -> None:
        self.model, self.id, self.created = model, f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    def whole(self, text: str, done: Finished) -> dict[str, Any]:
        """A chat completion."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": done.reason}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage(done)}

    def chunk(self, delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
        """A piece of a streamed completion."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def usage_chunk(self, done: Finished) -> dict[str, Any]:
        """The last piece, where the client asked for the usage."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(done)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def usage(done: Finished) -> dict[str, Any]:
    """Tokens as the OpenAI API counts them, and what the policy saved in `lookaway`."""
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.answer_tokens,
        "total_tokens": done.prompt_tokens + done.answer_tokens,
        "lookaway": dict(done.saved),
    }
