"""What a client may ask of the server; everything beyond is refused with the limit and its option named."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ...core.errors import SettingsError

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Limits of one request, and of all together."""

    max_pictures: int = 8
    """Pictures in one request, earlier turns included."""
    max_pixels: int = 20_000_000
    """Pixels of one picture; it is looked up before the picture is decoded."""
    max_picture_bytes: int = 10_000_000
    """Bytes of one encoded picture (PNG, JPEG, ...)."""
    max_body_bytes: int = 32_000_000
    """Bytes of a request's body."""
    max_prompt_tokens: int = 8192
    """Tokens of a prompt, the visual ones included."""
    max_answer_tokens: int = 1024
    """Largest `max_tokens` of a request."""
    default_answer_tokens: int = 256
    """`max_tokens` of a request that gives none."""
    max_batch: int = 8
    """Answers that are decoded together."""
    max_waiting: int = 32
    """Requests that may wait; more get status 429."""
    timeout_seconds: float = 120.0
    """Deadline of a request, from its arrival to the end of its answer."""
    allow_url: bool = False
    """Pictures may be given as http(s) addresses, which the server fetches."""
    max_redirects: int = 3
    """Redirects that are followed for one picture."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("allow_url", "max_redirects", "max_pictures") and not value > 0:
                raise SettingsError(f"{field.name} is {value}; it must be above 0.")
