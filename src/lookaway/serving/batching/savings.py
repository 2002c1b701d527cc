"""What a policy saved for one request: the numbers of its trace, as plain values for an answer's `usage`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...core.cost import DecoderShape, prefill_cost
from ...core.record import Trace

__all__ = ["kept_by_layer", "saved_by", "saved_nothing"]


def saved_by(trace: Trace) -> dict[str, Any]:
    """The numbers of a prompt of one row."""
    cost = trace.row_cost(0)
    return {
        "visual_tokens": trace.initial_visual_tokens[0],
        "mean_visual_tokens": cost.visual_tokens,
        "exit_layer": trace.exit_layers[0],
        "num_layers": trace.shape.num_layers,
        "prefill_flops": cost.flops,
        "prefill_flops_share": cost.flops_share,
        "kv_bytes": cost.kv_bytes,
        "kv_bytes_share": cost.kv_share,
    }


def saved_nothing(shape: DecoderShape, tokens: int, visual: int) -> dict[str, Any]:
    """The same of a prompt that ran without a policy."""
    layers = shape.num_layers
    cost = prefill_cost(shape, [[tokens]] * layers, [[visual]] * layers)
    return {
        "visual_tokens": visual,
        "mean_visual_tokens": float(visual),
        "exit_layer": None,
        "num_layers": layers,
        "prefill_flops": cost.flops,
        "prefill_flops_share": 1.0,
        "kv_bytes": cost.kv_bytes,
        "kv_bytes_share": 1.0,
    }


def kept_by_layer(kept: Sequence[Tensor | None], visual: Tensor) -> list[dict[str, Any]]:
    """Which visual tokens each stretch of layers kept.

    Args:
        kept: [L] of int64 [K]: columns of the prompt that a layer kept; None: all.
        visual: bool [S], the prompt's visual tokens.

    Returns:
        One entry for each change: {'layer': first layer, 'kept': numbers of the visual tokens, None: all}.
    """
    number = visual.cumsum(0) - 1
    found: list[dict[str, Any]] = []
    before: Any = ...
    for layer, columns in enumerate(kept):
        if columns is before:
            continue
        before = columns
        left = None if columns is None else number[columns][visual[columns]].tolist()
        if not found or found[-1]["kept"] != left:
            found.append({"layer": layer, "kept": left})
    return found
