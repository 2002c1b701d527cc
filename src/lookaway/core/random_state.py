"""Random numbers from a seed, without touching anybody else's random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """While it is open, random numbers of the CPU, and of `device`, come from `seed`; then their states are as before.

    Unlike `torch.manual_seed`, which reseeds every accelerator too, other devices are left alone. The states are the
    process's: no other thread should draw meanwhile.

    Args:
        seed: of the numbers.
        device: where numbers are drawn, if not on the CPU alone. CUDA devices are seeded and put back.
    """
    device = torch.device(device)
    devices = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for index in devices:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield
