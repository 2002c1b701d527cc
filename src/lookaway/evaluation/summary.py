"""Paired results -> one row of a table for all questions and one for each family. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .runner import PairedResult
from .statistics import Estimate, binomial_interval, mcnemar, retention

__all__ = ["SummaryRow", "histogram", "summarise"]


@dataclass(frozen=True)
class SummaryRow:
    """What a policy did to one family of questions. Accuracies are None where a sample has no ground truth."""

    family: str
    samples: int
    accuracy_without: float | None
    accuracy_with: float | None
    retention: Estimate | None
    """Accuracy with / without, with its paired 95 % bootstrap interval."""
    p_value: float | None
    """Exact McNemar test that both are right equally often."""
    agreement: Estimate
    """Share of equal answers, with its exact 95 % interval."""
    mean_exit: float | None
    """Mean exit layer of samples with an image; a sample that never exits counts as the number of layers."""
    never_exits: float | None
    """Share of the samples with an image whose visual tokens never left."""
    visual_tokens: float
    """Visual tokens that a layer processed, averaged over layers and samples."""
    full_visual_tokens: float
    flops_share: float
    """Counted prefill FLOPs / those without the policy."""
    fastv_share: float
    """The same by FastV's formula."""
    kv_share: float
    """KV bytes after prefill / those without the policy."""


def summarise(results: Sequence[PairedResult]) -> list[SummaryRow]:
    """The row 'all' first, then the families by name."""
    families = sorted({result.family for result in results if result.family is not None})
    rows = [_row("all", results)]
    rows += [_row(family, [r for r in results if r.family == family]) for family in families]
    return rows


def histogram(results: Sequence[PairedResult]) -> dict[int, int]:
    """Exit layer -> number of samples with an image; the number of layers stands for 'never'."""
    counts: dict[int, int] = {}
    for result in results:
        if result.visual_tokens[0]:
            layer = result.num_layers if result.exit_layer is None else result.exit_layer
            counts[layer] = counts.get(layer, 0) + 1
    return dict(sorted(counts.items()))


def _row(family: str, results: Sequence[PairedResult]) -> SummaryRow:
    scored = all(result.right_without is not None for result in results)
    right = [bool(result.right_with) for result in results]
    right_without = [bool(result.right_without) for result in results]
    exits = [r.num_layers if r.exit_layer is None else r.exit_layer for r in results if r.visual_tokens[0]]
    seen = [result for result in results if result.visual_tokens[0]]
    count = len(results)
    return SummaryRow(
        family=family,
        samples=count,
        accuracy_without=sum(right_without) / count if scored else None,
        accuracy_with=sum(right) / count if scored else None,
        retention=retention(right, right_without) if scored and any(right_without) else None,
        p_value=mcnemar(right, right_without) if scored else None,
        agreement=binomial_interval(sum(result.agree for result in results), count),
        mean_exit=sum(exits) / len(exits) if exits else None,
        never_exits=sum(result.exit_layer is None for result in seen) / len(seen) if seen else None,
        visual_tokens=sum(sum(r.visual_tokens) / len(r.visual_tokens) for r in results) / count,
        full_visual_tokens=sum(r.visual_tokens[0] for r in results) / count,
        flops_share=sum(r.flops for r in results) / sum(r.full_flops for r in results),
        fastv_share=sum(r.fastv_flops for r in results) / sum(r.full_fastv_flops for r in results),
        kv_share=sum(r.kv_bytes for r in results) / sum(r.full_kv_bytes for r in results),
    )
