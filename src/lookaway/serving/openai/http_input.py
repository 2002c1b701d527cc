"""What comes in over HTTP before any of it is understood: key, size of the body, a client that goes away."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Collection
from typing import TYPE_CHECKING

from .errors import ApiError

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["check_key", "read_body", "until_gone"]

DISCARDED = 4
"""Up to so many times the limit a body that is too large is read to its end and thrown away piece by piece: a client
that is cut off while it sends sees a broken connection and not the reason."""
BODY_SECONDS = 30.0
"""A body must have come within this time."""


def check_key(request: Request, keys: Collection[str]) -> None:
    """Raise ApiError (401) unless the request carries one of the keys; without keys everybody may ask."""
    if not keys:
        return
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    # Every key is compared in full, so that the time says nothing of where a guess went wrong.
    matches = [hmac.compare_digest(given.strip().encode(), key.encode()) for key in keys]
    if scheme.lower() != "bearer" or not any(matches):
        raise ApiError(401, "This server wants an API key: 'Authorization: Bearer KEY'.", None, "invalid_api_key",
                       {"WWW-Authenticate": "Bearer"})  # fmt: skip


async def read_body(request: Request, most: int) -> bytes:
    """The body of a JSON request.

    Raises:
        ApiError: it is not declared as JSON (415), too large (413), or does not come in time (408).
    """
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a page of another site cannot send this without asking first
        raise ApiError(415, "Send the body as JSON, with the header 'Content-Type: application/json'.", None, "no_json")
    too_large = ApiError(413, f"The body has more than {most:,} bytes (--max-body-mb).", None, "body_too_large",
                         {"Connection": "close"})  # fmt: skip
    found, length = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                length += len(piece)
                if length > DISCARDED * most:
                    raise too_large
                if length <= most:
                    found += piece
    except TimeoutError:
        raise ApiError(408, f"The body did not come within {BODY_SECONDS:.0f} s.", None, "slow_body",
                       {"Connection": "close"}) from None  # fmt: skip
    if length > most:
        raise too_large
    return bytes(found)


async def until_gone(request: Request) -> None:
    """Returns when the client has gone away. Call it after the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
