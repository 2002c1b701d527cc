"""How far a long command is: a bar in a terminal, a plain line at least every half minute where the output goes
elsewhere.

The plain lines come from a thread with a clock of its own, so that a batch that takes minutes is not silent either.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["EVERY", "Steps", "at_work", "progress"]

EVERY = 30.0
"""Seconds between two plain lines."""


@dataclass
class Steps:
    """Work that has so many steps; calling it with a count says that these are done."""

    words: str
    total: int | None
    """Of each phase; None: not known (yet)."""
    changed: Callable[[Steps], None]
    phases: Sequence[str] = ()
    """What is done to all steps one after the other; none: one thing."""
    done: int = 0
    """In all phases together."""
    start: float = field(default_factory=time.monotonic)

    def __call__(self, count: int) -> None:
        self.done += count
        self.changed(self)

    def reach(self, done: int, total: int) -> None:
        """So many of so many are done: for work whose length is known only once it runs."""
        self.done, self.total = done, total
        self.changed(self)

    def restart(self, total: int, words: str | None = None) -> None:
        """Work begins anew, with another number of steps and, where `words` are given, of another kind: its rate and
        time are of its own."""
        self.done, self.total, self.start = 0, total, time.monotonic()
        self.words = words or self.words
        self.changed(self)

    @property
    def whole(self) -> int | None:
        """Steps of all phases."""
        return None if self.total is None else self.total * max(1, len(self.phases))

    @property
    def phase(self) -> tuple[str, int]:
        """What is at work, and how many steps of it are done: never more than there are."""
        if not self.phases or not self.total:
            return self.words, self.done
        number = min(max(0, self.done - 1) // self.total, len(self.phases) - 1)
        return f"{self.words}, {self.phases[number]}", self.done - number * self.total

    @property
    def phase_ended(self) -> bool:
        return self.done > 0 and self.phase[1] == self.total

    def line(self, now: float) -> str:
        """What is done, in which time, how fast, and how long the rest takes at this rate."""
        spent, (words, done) = now - self.start, self.phase
        if self.total is None and not self.done:
            return f"{words}: at work for {spent:.0f} s"
        rate = self.done / spent if spent > 0 else 0.0
        of = "" if self.total is None else f" of {self.total}"
        left = "" if self.whole is None or not rate else f", about {(self.whole - self.done) / rate:.0f} s left"
        left = "" if self.phase_ended else left
        return f"{words}: {done}{of}, {spent:.0f} s{f', {rate:.2g} a second' if self.done else ''}{left}"


class PlainLines:
    """Writes on stderr what is at work: when it begins and ends, and at least every `EVERY` seconds between."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.open: list[Steps] = []
        """What is at work, the innermost last."""
        self.said = clock()
        self.lock = threading.RLock()
        self.ended: threading.Event | None = None

    def begin(self, words: str, total: int | None, loud: bool, phases: Sequence[str] = ()) -> Steps:
        steps = Steps(words, total, self.changed, phases, start=self.clock())
        with self.lock:
            self.open.append(steps)
            if loud:
                self._say(f"{steps.phase[0]}: 0 of {total}" if total is not None else words)
            if self.ended is None:
                self.ended = threading.Event()
                threading.Thread(target=self._watch, args=(self.ended,), daemon=True).start()
        return steps

    def changed(self, steps: Steps) -> None:
        with self.lock:
            if steps.phase_ended or self.clock() - self.said >= EVERY:
                self._say(steps.line(self.clock()))

    def tick(self) -> None:
        """A line where none came for too long."""
        with self.lock:
            if self.open and self.clock() - self.said >= EVERY:
                self._say(self.open[-1].line(self.clock()))

    def end(self, steps: Steps) -> None:
        with self.lock:
            self.open.remove(steps)
            if not self.open and self.ended is not None:
                self.ended.set()
                self.ended = None

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(min(1.0, EVERY / 4)):
            self.tick()

    def _say(self, line: str) -> None:
        self.said = self.clock()
        print(line, file=sys.stderr, flush=True)


_lines = PlainLines()
_shown: list[Progress] = []
"""The display that is open in the terminal; rich has one at a time."""


@contextmanager
def progress(words: str, total: int | None, phases: Sequence[str] = ()) -> Iterator[Steps]:
    """Shows on stderr how much of `total` is done; yields what advances it by a count.

    Work that ends well has done all of its steps, also where `total` was a guess. With `phases` all steps are done
    once in each of them, one phase after the other, and what is shown is how far the present one is.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        steps = _lines.begin(words, total, loud=True, phases=phases)
        try:
            yield steps
            if steps.done and not steps.phase_ended:
                done = steps.phase[1]
                steps.done, steps.total, steps.words, steps.phases = done, done, steps.phase[0], ()
                steps.changed(steps)
        finally:
            _lines.end(steps)
        return
    with _bars(console) as bars:
        task = bars.add_task(", ".join((words, *phases[:1])), total=total)

        def show(steps: Steps) -> None:
            named, done = steps.phase
            bars.update(task, description=named, completed=done, total=steps.total)

        steps = Steps(words, total, show, phases)
        yield steps
        done = steps.phase[1]
        bars.update(task, completed=done, total=done)


@contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    """What shows bars in this terminal: work inside other work is a further line of the same display."""
    if _shown:
        yield _shown[-1]
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bars:
        _shown.append(bars)
        try:
            yield bars
        finally:
            _shown.pop()


@contextmanager
def at_work(words: str) -> Iterator[None]:
    """Around a whole command: off a terminal it is never silent for more than `EVERY` seconds, whatever it does."""
    if Console(stderr=True).is_terminal:
        yield
        return
    steps = _lines.begin(words, None, loud=False)
    try:
        yield
    finally:
        _lines.end(steps)
