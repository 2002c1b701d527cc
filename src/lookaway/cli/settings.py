"""What a long command says before it works: device, threads, precision and batch size, and which of them is slow."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .common import tell

__all__ = ["known_slow", "tell_settings"]


def tell_settings(model: Any = None, batch_size: int | None = None, flag: str = "--batch-size") -> None:
    """One line on stderr, and one for each setting that is known to be slow.

    Args:
        model: the live model; None: torch's CPU threads are all there is to say.
        batch_size: None: one sample at a time, which no option changes.
        flag: the option that sets `batch_size`.
    """
    import torch

    device = "cpu" if model is None else model.device.type
    dtype = "float32" if model is None else str(model.dtype).removeprefix("torch.")
    threads = torch.get_num_threads()
    name = torch.cuda.get_device_name(model.device) if device == "cuda" else device
    batches = "one sample at a time" if batch_size is None else f"batches of {batch_size} ({flag})"
    tell(f"runs on {name}, {threads} CPU thread{'s' * (threads > 1)}, {dtype}, {batches}")
    for hint in known_slow(device, dtype, threads, usable_cores(), free_cores(), batch_size, flag):
        tell(f"note: {hint}")


def known_slow(
    device: str, dtype: str, threads: int, cores: int, free: float, batch_size: int | None, flag: str = "--batch-size"
) -> Iterator[str]:
    """What makes a run slow, each with its cure. `cores` may be used; on `free` cores of the machine nothing runs."""
    if device == "cuda" and batch_size == 1:
        yield f"batches of 1 leave most of a GPU idle; {flag} 8 or more is faster where memory allows it."
    if device != "cpu":
        return
    if threads < cores:
        set_to = os.environ.get("OMP_NUM_THREADS")
        now = f" (it is {set_to} now)" if set_to else ""
        yield f"{threads} of {cores} CPU cores are used. OMP_NUM_THREADS={cores} uses all of them{now}."
    if threads > cores:
        yield f"{threads} threads share {cores} CPU cores and wait for each other; OMP_NUM_THREADS={cores} is faster."
    if free < min(threads, cores) - 0.5:
        yield (
            f"other work leaves {free:.1f} of the CPU cores free for {threads} thread{'s' * (threads > 1)}: this takes "
            "longer, and seconds measured now are those of a busy machine."
        )
    if dtype in ("float16", "bfloat16"):
        yield f"{dtype} is slower than float32 on most CPUs."


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_cores(seconds: float = 0.2) -> float:
    """CPU cores of this machine on which nothing runs while this process waits so long; where the system does not tell,
    all of them."""
    before = _ticks()
    time.sleep(seconds if before else 0)
    after = _ticks()
    cores = float(os.cpu_count() or 1)
    if not before or not after or sum(after) == sum(before):
        return cores
    idle = sum(after[3:5]) - sum(before[3:5])  # idle, and waiting for a disk
    return cores * idle / (sum(after) - sum(before))


def _ticks() -> list[int]:
    """Linux's clock ticks by state since the start (proc(5): user, nice, system, idle, iowait, ...); else none."""
    try:
        return [int(part) for part in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return []
