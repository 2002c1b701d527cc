"""From a chat request to the tensors of one prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...core.errors import DataError
from ...core.record import Sample
from ...models.encoding import encode
from ...models.seen_picture import seen_picture
from ..batching.requests import Failed, Finished, Generation, Piece, Sampling
from .errors import ApiError
from .limits import Limits
from .pictures import read_picture
from .request_body import ChatRequest, Message

__all__ = ["Preparer", "context_length"]

LETTERS = 24
"""Letters of a prompt for each token that it may have; a longer text is refused before it is split into tokens."""


class Preparer:
    """Makes generations for one model; its methods may run in several threads.

    Args:
        context: tokens that the decoder's positions allow, prompt and answer together; None: not known.
    """

    def __init__(self, processor: Any, limits: Limits, context: int | None = None) -> None:
        self._processor, self._limits, self._context = processor, limits, context
        names = ("image_token", "video_token")
        found = [getattr(processor, name, None) or getattr(processor.tokenizer, name, None) for name in names]
        self._placeholders = [str(token) for token in found if token]

    def check(self, chat: ChatRequest) -> int:
        """Check what needs no work; returns the largest number of answer tokens.

        Raises:
            ApiError: a limit is exceeded.
        """
        limits = self._limits
        if len(chat.pictures) > limits.max_pictures:
            raise ApiError(400, f"The request has {len(chat.pictures)} pictures; this server takes up to "
                           f"{limits.max_pictures} (--max-pictures).", "messages", "too_many_pictures")  # fmt: skip
        if sum(map(len, chat.texts)) > LETTERS * limits.max_prompt_tokens:
            raise _too_long(f"more than {LETTERS * limits.max_prompt_tokens:,} letters")
        for text in chat.texts:
            for token in self._placeholders:
                if token in text:
                    raise ApiError(400, f"The text holds {token!r}, which stands for a picture in prompts. "
                                   "Send pictures as image_url parts.", "messages", "placeholder_in_text")  # fmt: skip
        if chat.messages[-1].role != "user":
            raise ApiError(400, "The last message must be the user's.", "messages", "no_question")
        asked = chat.max_completion_tokens or chat.max_tokens or limits.default_answer_tokens
        if asked > limits.max_answer_tokens:
            raise ApiError(400, f"max_tokens is {asked}; this server allows up to {limits.max_answer_tokens} "
                           "(--max-answer-tokens).", "max_tokens", "max_tokens_too_large")  # fmt: skip
        return asked

    def generation(
        self, chat: ChatRequest, policy: str | None, arrived: float, emit: Callable[[Piece | Finished | Failed], None]
    ) -> Generation:
        """The request as the worker takes it. Reads pictures and runs the processor: not for the event loop.

        Raises:
            ApiError: a picture or the prompt is refused.
        """
        asked, deadline = self.check(chat), arrived + self._limits.timeout_seconds
        pictures = [
            read_picture(url, self._limits, f"picture {number}", deadline)
            for number, url in enumerate(chat.pictures, 1)
        ]
        sample = Sample("request", [_plain(message) for message in chat.messages], tuple(pictures))
        try:
            inputs = encode(self._processor, [sample]).inputs
        except DataError as error:
            raise ApiError(400, str(error), "messages", "refused_by_processor") from None
        tokens = inputs["input_ids"].shape[1]
        if tokens > self._limits.max_prompt_tokens:
            raise _too_long(f"{tokens:,} tokens; this server takes up to {self._limits.max_prompt_tokens:,} "
                            "(--max-prompt-tokens)")  # fmt: skip
        if self._context is not None and tokens + asked > self._context:
            raise _too_long(f"{tokens:,} tokens, and {asked:,} of an answer would make more than the model's "
                            f"{self._context:,}")  # fmt: skip
        extra: dict[str, Any] = {}
        if chat.lookaway.details and pictures:
            extra["picture"], extra["aligned"] = seen_picture(self._processor, sample, inputs)
        return Generation(
            inputs, emit, policy, asked, Sampling(chat.temperature or 0.0, chat.top_p or 1.0, chat.seed), chat.stops,
            deadline, chat.lookaway.details, extra, arrived,
        )  # fmt: skip


def context_length(model: Any) -> int | None:
    """Tokens that the decoder's positions were made for; None where its config does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _too_long(what: str) -> ApiError:
    return ApiError(400, f"The prompt has {what}. Shorten it.", "messages", "context_length_exceeded")


def _plain(message: Message) -> dict[str, Any]:
    """The message in the form of Hugging Face chat templates."""
    role = "system" if message.role == "developer" else message.role
    if isinstance(message.content, str):
        return {"role": role, "content": message.content}
    parts = [{"type": "text", "text": part.text} if part.type == "text" else {"type": "image"}
             for part in message.content]  # fmt: skip
    return {"role": role, "content": parts}
