"""An answer's text while its tokens come: no half characters, nothing behind a stop string, nothing said twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["AnswerText"]

UNFINISHED = "\ufffd"
"""What a tokenizer gives for bytes that are only a part of a character."""


class AnswerText:
    """Takes token ids one by one and gives out the text that is certain.

    The pieces together are `tokenizer.decode(ids, skip_special_tokens=True)`, cut before the first stop string. Only
    the latest tokens are decoded again: those behind the last place where a character ended.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._ids: list[int] = []
        self._start = self._read = 0
        """Tokens [start, read) were given out last; what comes is decoded behind them, since some tokenizers treat the
        first token of a text in a way of its own."""
        self._held = ""
        """Text that may be the beginning of a stop string."""
        self.stopped = False
        """A stop string was found: the answer is over."""

    def add(self, token: int) -> str:
        """The text that this token makes certain; may be empty."""
        self._ids.append(token)
        text = self._new()
        if not text or text.endswith(UNFINISHED):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return self._before_stop(text, last=False)

    def end(self) -> str:
        """What was held back, once no token comes any more."""
        return "" if self.stopped else self._before_stop(self._new(), last=True)

    def _new(self) -> str:
        whole = self._decoded(self._ids[self._start :])
        return whole[len(self._decoded(self._ids[self._start : self._read])) :]

    def _decoded(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""

    def _before_stop(self, text: str, last: bool) -> str:
        text = self._held + text
        self._held = ""
        found = [place for place in (text.find(word) for word in self._stop) if place >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        if not last:
            held = max((_overlap(text, word) for word in self._stop), default=0)
            if held:
                text, self._held = text[:-held], text[-held:]
        return text


def _overlap(text: str, word: str) -> int:
    """Length of the longest end of `text` that `word` begins with."""
    return next((n for n in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:n])), 0)
