"""Counted FLOPs: what PyTorch really executes, to hold the closed form of `core.cost` against.

torch's FlopCounterMode knows no formula for the attention kernel that SDPA uses on CPUs, so by default it counts no
attention there at all and hides exactly what visual exit saves; here it gets torch's own SDPA formula.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

__all__ = ["counted_flops"]


def counted_flops(run: Callable[[], Any]) -> int:
    """FLOPs (2 a multiply-add) of everything that `run()` executes: matrix products, convolutions, attention.

    Attention counts the full n x n, not its causal half; element-wise work counts nothing.
    """

    def attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={kernel: attention})
    with counter, torch.no_grad():
        run()
    return int(counter.get_total_flops())
