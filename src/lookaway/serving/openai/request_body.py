"""The body of a chat completion, as the OpenAI API defines it: what is carried out, what is ignored or refused.

A field that would change the answer and is not carried out is refused: it is never silently dropped.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import ApiError

__all__ = ["ChatRequest", "ImagePart", "Message", "TextPart", "read_chat_request"]

IGNORED = ("metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user")
"""Fields that do not change an answer."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (), "frequency_penalty": (0,), "function_call": ("none",), "functions": ([],), "logit_bias": ({},),
    "logprobs": (False,), "modalities": (["text"],), "n": (1,), "parallel_tool_calls": (True, False),
    "prediction": (), "presence_penalty": (0,), "reasoning_effort": (), "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"), "tools": ([],), "top_logprobs": (0,), "verbosity": (), "web_search_options": (),
}  # fmt: skip
"""Fields that are not carried out -> values that ask for nothing."""
STOPS = 4
"""Stop strings of one request, as in the OpenAI API."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(_Strict):
    """A part of a message: text."""

    type: Literal["text"]
    text: str


class ImageUrl(_Strict):
    """Where a picture is: a data URL or, where the server allows it, an http(s) address."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None
    """Ignored: the model's processor decides the resolution."""


class ImagePart(_Strict):
    """A part of a message: a picture."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Strict):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(min_length=1, max_length=1000)]
    name: str | None = None


class LookawayOptions(_Strict):
    """This server's own field: `extra_body={"lookaway": {...}}` of the OpenAI client."""

    policy: str | None = None
    """Name of a loaded policy, or 'off'; None: the server's default."""
    details: bool = False
    """Also tell which visual tokens each layer kept."""


class StreamOptions(_Strict):
    include_usage: bool = False


class ChatRequest(_Strict):
    """A chat completion."""

    model_config = ConfigDict(extra="allow", strict=True)

    messages: Annotated[list[Message], Field(min_length=1, max_length=256)]
    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=STOPS)] | None = None
    lookaway: LookawayOptions = LookawayOptions()

    @property
    def pictures(self) -> list[str]:
        """Addresses of the pictures, in order."""
        parts = [part for message in self.messages if not isinstance(message.content, str) for part in message.content]
        return [part.image_url.url for part in parts if isinstance(part, ImagePart)]

    @property
    def texts(self) -> list[str]:
        """All texts of the conversation."""
        found: list[str] = []
        for message in self.messages:
            if isinstance(message.content, str):
                found.append(message.content)
            else:
                found += [part.text for part in message.content if isinstance(part, TextPart)]
        return found

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        given = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return tuple(dict.fromkeys(word for word in given if word))


def read_chat_request(body: bytes) -> ChatRequest:
    """Parse and check a body.

    Raises:
        ApiError: it is no JSON, lacks something, or asks for what is not carried out (status 400).
    """
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise _explained(error) from None
    for name, value in (request.model_extra or {}).items():
        if name in IGNORED or value is None or (name in NEUTRAL and any(value == one for one in NEUTRAL[name])):
            continue
        if name in NEUTRAL:
            raise ApiError(400, f"'{name}' is not carried out by this server: leave it out.", name, "unsupported")
        known = ", ".join(sorted(ChatRequest.model_fields))
        raise ApiError(400, f"Unknown field '{name[:80]}'. Known: {known}.", name[:80], "unknown_field")
    for i, message in enumerate(request.messages):
        pictures = not isinstance(message.content, str) and any(part.type == "image_url" for part in message.content)
        if pictures and message.role != "user":
            raise ApiError(400, f"A picture stands in a message of the {message.role}; only the user's may have some.",
                           f"messages.{i}", "misplaced_picture")  # fmt: skip
    return request


def _explained(error: ValidationError) -> ApiError:
    """The first thing that is wrong, without the (perhaps huge) value."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])[:200]
    more = error.error_count() - 1
    message = f"{place}: {first['msg']}" if place else f"The body cannot be read: {first['msg']}"
    return ApiError(400, message[:500] + (f" ({more} more)" if more else "") + ".", place or None, first["type"])
