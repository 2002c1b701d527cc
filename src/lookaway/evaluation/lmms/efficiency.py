"""What a policy did to each question of a task, and the means that land in lmms-eval's result files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...core.record import Trace

__all__ = ["Efficiency", "efficiency_of", "means"]


@dataclass(frozen=True)
class Efficiency:
    """One question's prefill under the policy, padding apart, and the time of its batch."""

    exit_layer: int | None
    """None: the visual tokens never left, or there were none."""
    num_layers: int
    visual_tokens: list[int]
    """[L] visual tokens that each layer processed."""
    flops: int
    full_flops: int
    fastv_flops: int
    full_fastv_flops: int
    kv_bytes: int
    full_kv_bytes: int
    seconds: float
    """The batch's `generate`, divided by its questions."""
    image: str
    """Equal for questions about the same pictures."""
    prompt_visual_tokens: int
    """Visual tokens of the prompt, those included that never entered the decoder."""


def efficiency_of(trace: Trace, row: int, seconds: float, image: str) -> Efficiency:
    """Row `row` of a trace."""
    cost = trace.row_cost(row)
    return Efficiency(
        exit_layer=trace.exit_layers[row],
        num_layers=trace.shape.num_layers,
        visual_tokens=[layer[row] for layer in trace.visual_tokens],
        flops=cost.flops,
        full_flops=cost.full_flops,
        fastv_flops=cost.fastv_flops,
        full_fastv_flops=cost.full_fastv_flops,
        kv_bytes=cost.kv_bytes,
        full_kv_bytes=cost.full_kv_bytes,
        seconds=seconds,
        image=image,
        prompt_visual_tokens=trace.initial_visual_tokens[row],
    )


def means(rows: Sequence[Efficiency]) -> dict[str, float]:
    """Means over questions, ready for lmms-eval's throughput table; exits over those with an image only.

    Keys: exit_layer (never = the number of layers), never_exits, visual_tokens (a layer), full_visual_tokens,
    flops_share, fastv_share, kv_share, kv_bytes, seconds (a question).
    """
    if not rows:
        return {}
    seen = [row for row in rows if row.prompt_visual_tokens]
    exits = [row.num_layers if row.exit_layer is None else row.exit_layer for row in seen]
    found = {"exit_layer": sum(exits) / len(seen), "never_exits": _share(seen)} if seen else {}
    return found | {
        "visual_tokens": sum(sum(row.visual_tokens) / row.num_layers for row in rows) / len(rows),
        "full_visual_tokens": sum(row.prompt_visual_tokens for row in rows) / len(rows),
        "flops_share": sum(row.flops for row in rows) / sum(row.full_flops for row in rows),
        "fastv_share": sum(row.fastv_flops for row in rows) / sum(row.full_fastv_flops for row in rows),
        "kv_share": sum(row.kv_bytes for row in rows) / sum(row.full_kv_bytes for row in rows),
        "kv_bytes": sum(row.kv_bytes for row in rows) / len(rows),
        "seconds": sum(row.seconds for row in rows) / len(rows),
    }


def _share(seen: Sequence[Efficiency]) -> float:
    return sum(row.exit_layer is None for row in seen) / len(seen)
