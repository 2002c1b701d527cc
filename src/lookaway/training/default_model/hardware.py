"""Where to train and in which precision: a GPU in bfloat16 if there is one, else the CPU in what is faster there.

Measured by a matrix product, not read from a list: the same bfloat16 that gives 436 GFLOP/s on a CPU with AVX512-BF16
gives 18 on one without (float32: 159).
"""

from __future__ import annotations

import contextlib
import time
from contextlib import AbstractContextManager
from functools import cache

import torch

__all__ = ["autocast", "best_device", "bfloat16_pays"]


def best_device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def bfloat16_pays(kind: str) -> bool:
    """Whether bfloat16 products are clearly faster than float32 ones on this kind of device."""
    if kind != "cpu":
        return True

    def seconds(dtype: torch.dtype) -> float:
        a, b = torch.ones(512, 576, dtype=dtype), torch.ones(576, 1536, dtype=dtype)
        a @ b
        taken = []
        for _ in range(3):
            began = time.perf_counter()
            a @ b
            taken.append(time.perf_counter() - began)
        return min(taken)

    return seconds(torch.bfloat16) * 1.5 < seconds(torch.float32)


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """bfloat16 for matrix products where that pays, nothing elsewhere."""
    if bfloat16_pays(device.type):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
