"""The routes that hand out the page."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

__all__ = ["playground_routes"]

PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/playground.js": ("playground.js", "text/javascript; charset=utf-8"),
    "/playground.css": ("playground.css", "text/css; charset=utf-8"),
}
HEADERS = {
    # Nothing but the server's own files: whatever an answer holds, it runs nothing and fetches nothing.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def playground_routes() -> list[Any]:
    """GET routes for the page, its script and its style."""
    from starlette.responses import Response
    from starlette.routing import Route

    def route(path: str, file: str, kind: str) -> Any:
        content = files(__package__).joinpath(file).read_bytes()

        async def get(request: Any) -> Response:
            return Response(content, media_type=kind, headers=HEADERS)

        return Route(path, get, methods=["GET"])

    return [route(path, *page) for path, page in PAGES.items()]
