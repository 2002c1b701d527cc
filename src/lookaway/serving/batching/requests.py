"""What a client of the batching worker hands in, and what it gets back, piece by piece."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

__all__ = ["Failed", "Finished", "Generation", "Piece", "QueueFull", "Sampling", "Stopping"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 0.0
    """0: the likeliest token (greedy)."""
    top_p: float = 1.0
    """Only the likeliest tokens whose probabilities add up to this."""
    seed: int | None = None
    """Of the request's own random numbers; None: another one each time."""


@dataclass(frozen=True)
class Piece:
    """A part of the answer's text."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The answer is complete."""

    reason: str
    """'stop': the model ended it, or a stop string did; 'length': it reached `max_new_tokens`."""
    prompt_tokens: int
    answer_tokens: int
    saved: Mapping[str, Any]
    """What the policy saved (`savings.py`)."""


@dataclass(frozen=True)
class Failed:
    """There will be no (more) answer."""

    reason: str
    """'deadline', 'stopping', 'refused' or 'internal'."""
    message: str


@dataclass(eq=False)
class Generation:
    """One request. The worker's thread calls `emit` with `Piece`s and at last with one `Finished` or `Failed`."""

    inputs: Mapping[str, Tensor]
    """Of one row, for `model(**inputs)`, on the CPU."""
    emit: Callable[[Piece | Finished | Failed], None]
    policy: str | None = None
    """Name of the policy; None: none."""
    max_new_tokens: int = 64
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""
    deadline: float | None = None
    """`time.monotonic()` after which nobody wants the answer any more; None: never."""
    details: bool = False
    """Tell which visual tokens each layer kept."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """More plain values for `Finished.saved`."""
    arrived: float = field(default_factory=time.monotonic)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """The client went away: no more work on it, and no more `emit`."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def late(self) -> bool:
        """The deadline has passed."""
        return self.deadline is not None and time.monotonic() > self.deadline


class QueueFull(Exception):
    """Too many requests wait already."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Too many requests wait already. Try again in {seconds:.0f} s.")
        self.seconds = seconds
        """After which a place is likely to be free."""


class Stopping(Exception):
    """The server takes no new requests."""
