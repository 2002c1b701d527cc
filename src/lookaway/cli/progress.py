"""How far a long command is: a bar in a terminal, a plain line every half minute where the output goes elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["EVERY", "progress"]

EVERY = 30.0
"""Seconds between two plain lines."""


@contextmanager
def progress(words: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows on stderr how much of `total` is done; yields what advances it by a count."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(words, total, sys.stderr).advance
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(words, total=total)
        yield lambda count: bar.advance(task, count)


class _Lines:
    """Plain lines: when the work begins, then at most one every `EVERY` seconds, and when it is done."""

    def __init__(self, words: str, total: int, file: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.words, self.total, self.file, self.clock = words, total, file, clock
        self.done, self.start, self.last = 0, clock(), clock()
        self._say(f"{words}: 0 of {total}")

    def advance(self, count: int) -> None:
        self.done += count
        now = self.clock()
        if self.done < self.total and now - self.last < EVERY:
            return
        self.last = now
        spent = now - self.start
        rate = self.done / spent if spent > 0 else 0.0
        left = f", about {(self.total - self.done) / rate:.0f} s left" if rate and self.done < self.total else ""
        self._say(f"{self.words}: {self.done} of {self.total}, {spent:.0f} s, {rate:.2g} a second{left}")

    def _say(self, line: str) -> None:
        print(line, file=self.file, flush=True)
