"""Seconds, measured fairly: all variants take turns in one process, after a warm-up; median and spread are reported.

Taking turns cancels the drift of a machine (clocks, neighbours): what is compared ran within the same seconds. The
speed-up is the median of the ratios of neighbouring runs, not the ratio of two medians taken minutes apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["Timing", "measure", "ratio", "synchronise"]


@dataclass(frozen=True)
class Timing:
    """Seconds of one variant."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""
    runs: tuple[float, ...]
    """Every run, in the order in which they ran."""


def measure(
    variants: Mapping[str, Callable[[], Any]],
    repeats: int = 15,
    warmup: int = 2,
    device: Any = None,
    around: Callable[[str], AbstractContextManager[Any]] = lambda name: nullcontext(),
    progress: Callable[[int], object] = lambda count: None,
) -> dict[str, Timing]:
    """Time callables in turns: A B C A B C ... (every second round backwards).

    Args:
        variants: name -> what to time.
        repeats: rounds that count.
        warmup: rounds before them that do not.
        device: a CUDA device is synchronised around every run.
        around: name -> what is entered around each of its runs, and not timed.
        progress: called with 1 after each round, those of the warm-up included.
    """
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with torch.no_grad():
        for round_ in range(warmup + repeats):
            for name in names if round_ % 2 else names[::-1]:
                with around(name):
                    synchronise(device)
                    start = time.perf_counter()
                    variants[name]()
                    synchronise(device)
                    taken = time.perf_counter() - start
                if round_ >= warmup:
                    seconds[name].append(taken)
            progress(1)
    return {name: _timing(found) for name, found in seconds.items()}


def ratio(slow: Timing, fast: Timing) -> tuple[float, float, float]:
    """(median, first quartile, third quartile) of slow / fast over the rounds: how many times faster `fast` is."""
    each = np.asarray(slow.runs) / np.asarray(fast.runs)
    return _quartiles(each)


def _timing(runs: Sequence[float]) -> Timing:
    return Timing(*_quartiles(runs), runs=tuple(runs))


def _quartiles(values: Any) -> tuple[float, float, float]:
    low, middle, high = (float(v) for v in np.percentile(values, [25, 50, 75]))
    return middle, low, high


def synchronise(device: Any) -> None:
    """Wait until a CUDA device has done what was queued; of any other device nothing is waited for."""
    if device is not None and torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
