"""`lookaway` in the bodies of vLLM's OpenAI server, as `lookaway serve` has it: `{"lookaway": {"policy": "name"}}` in a
request, and what was saved under `usage.lookaway` of the response."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

__all__ = ["answered", "choose_policy", "streamed"]

KEY = "lookaway"


def choose_policy(body: Any, params: Any) -> Any:
    """The sampling parameters of a request's body, with the policy that it names.

    What is no policy's name is handed on as it is, and refused where requests are checked.

    Args:
        body: vLLM's `ChatCompletionRequest` or `CompletionRequest`.
    """
    given = (body.model_extra or {}).get(KEY)
    if given is None:
        return params
    if isinstance(given, dict) and set(given) == {"policy"}:
        given = given["policy"]
    params.extra_args = {**(params.extra_args or {}), KEY: given}
    return params


class _Watched:
    """The outputs of a request, and what the last of them says was saved."""

    def __init__(self, outputs: AsyncIterator[Any]) -> None:
        self._outputs = outputs
        self.report: Any = None

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for output in self._outputs:
            self.report = getattr(output, KEY, None) or self.report
            yield output


async def answered(plain: Callable[..., Any], serving: Any, body: Any, outputs: Any, *args: Any, **kwargs: Any) -> Any:
    """A whole response, or an error as it is."""
    watched = _Watched(outputs)
    response = await plain(serving, body, aiter(watched), *args, **kwargs)
    if watched.report is not None and hasattr(response, "usage"):
        response.usage.lookaway = watched.report
    return response


async def streamed(
    plain: Callable[..., Any], serving: Any, body: Any, outputs: Any, *args: Any, **kwargs: Any
) -> AsyncIterator[str]:
    """The events of a stream; the one of the whole `usage`, which has no choices, says what was saved."""
    watched = _Watched(outputs)
    async for event in plain(serving, body, aiter(watched), *args, **kwargs):
        if watched.report is not None and '"usage":{' in event and '"choices":[]' in event:
            document = json.loads(event.removeprefix("data: "))
            document["usage"][KEY] = watched.report
            event = f"data: {json.dumps(document)}\n\n"
        yield event
