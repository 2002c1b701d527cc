"""Bytes that a prefill leaves in its KV cache, and the most that a run held."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["kv_cache_bytes", "peak_bytes"]


def kv_cache_bytes(model: Any, inputs: Mapping[str, Any]) -> int:
    """Bytes of keys and values after the prefill of `inputs`, with whatever policy is attached; read off the cache."""
    with torch.no_grad():
        cache = model(**inputs, use_cache=True, logits_to_keep=1).past_key_values
    return sum(
        part.numel() * part.element_size()
        for layer in cache.layers
        for part in (getattr(layer, "keys", None), getattr(layer, "values", None))
        if part is not None  # a layer without attention keeps a state of fixed size, which is not counted
    )


def peak_bytes(run: Callable[[], Any], device: Any) -> int | None:
    """The most that was allocated on a CUDA device during `run()`, weights included; None on a CPU, where the allocator
    does not say."""
    device = torch.device(device)
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    with torch.no_grad():
        run()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device))
