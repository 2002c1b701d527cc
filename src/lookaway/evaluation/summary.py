"""Paired results -> one row of a table for all questions and one for each family. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .runner import PairedResult
from .scores import PairedScores
from .statistics import Estimate, paired_p, retention, samples_needed, share_interval

__all__ = ["SummaryRow", "histogram", "summarise"]


@dataclass(frozen=True)
class SummaryRow:
    """What a policy did to one family of questions. Accuracies are of the samples with an answer to score by, and None
    where no sample has one; all else is of all samples."""

    family: str
    samples: int
    accuracy_without: float | None
    accuracy_with: float | None
    retention: Estimate | None
    """Accuracy with / without, with its paired 95 % interval, clustered by image."""
    p_value: float | None
    """McNemar's exact test that both are right equally often; a permutation test where images have several questions or
    scores are not 0 or 1."""
    agreement: Estimate
    """Share of equal answers, with its 95 % interval, clustered by image."""
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
    images: int = 0
    """Different images (a question without one counts as one): what intervals and tests take for independent."""
    scored: int = 0
    """Samples with an answer to score by."""
    needed_for_one_percent: int | None = None
    """Independent questions that a paired test needs to see a drop of one point (power 0.8, level 0.05), at the share
    of differing answers that was found."""


def summarise(results: Sequence[PairedResult], scores: PairedScores | None = None) -> list[SummaryRow]:
    """The row 'all' first, then the families by name.

    Args:
        scores: a task's official scores of these results (`score_pairs`); None: right or wrong by exact match.
    """
    families = sorted({result.family for result in results if result.family is not None})
    chosen = {"all": list(range(len(results)))}
    for family in families:
        chosen[family] = [i for i, result in enumerate(results) if result.family == family]
    return [_row(name, results, places, scores) for name, places in chosen.items()]


def histogram(results: Sequence[PairedResult]) -> dict[int, int]:
    """Exit layer -> number of samples with an image; the number of layers stands for 'never'."""
    counts: dict[int, int] = {}
    for result in results:
        if result.initial_visual_tokens:
            layer = result.num_layers if result.exit_layer is None else result.exit_layer
            counts[layer] = counts.get(layer, 0) + 1
    return dict(sorted(counts.items()))


def _row(
    family: str, everything: Sequence[PairedResult], places: Sequence[int], scores: PairedScores | None
) -> SummaryRow:
    results = [everything[i] for i in places]
    scored, right, right_without = [], [], []
    for place, result in zip(places, results, strict=True):
        if scores is not None:
            score, score_without = scores.with_policy[place], scores.without[place]
        else:
            score, score_without = _number(result.right_with), _number(result.right_without)
        if score is not None and score_without is not None:
            scored.append(result)
            right.append(score)
            right_without.append(score_without)
    images, scored_images = _images(results), _images(scored)
    differing = sum(a != b for a, b in zip(right, right_without, strict=True)) / max(1, len(scored))
    exits = [r.num_layers if r.exit_layer is None else r.exit_layer for r in results if r.initial_visual_tokens]
    seen = [result for result in results if result.initial_visual_tokens]
    count = len(results)
    return SummaryRow(
        family=family,
        samples=count,
        accuracy_without=sum(right_without) / len(scored) if scored else None,
        accuracy_with=sum(right) / len(scored) if scored else None,
        retention=retention(right, right_without, scored_images) if any(right_without) else None,
        p_value=paired_p(right, right_without, scored_images) if scored else None,
        agreement=share_interval([result.agree for result in results], images),
        mean_exit=sum(exits) / len(exits) if exits else None,
        never_exits=sum(result.exit_layer is None for result in seen) / len(seen) if seen else None,
        visual_tokens=sum(sum(r.visual_tokens) / len(r.visual_tokens) for r in results) / count,
        full_visual_tokens=sum(r.initial_visual_tokens for r in results) / count,
        flops_share=sum(r.flops for r in results) / sum(r.full_flops for r in results),
        fastv_share=sum(r.fastv_flops for r in results) / sum(r.full_fastv_flops for r in results),
        kv_share=sum(r.kv_bytes for r in results) / sum(r.full_kv_bytes for r in results),
        images=len(set(images)),
        scored=len(scored),
        needed_for_one_percent=samples_needed(differing) if scored else None,
    )


def _number(right: bool | None) -> float | None:
    return None if right is None else float(right)


def _images(results: Sequence[PairedResult]) -> list[str]:
    """What questions about the same pictures share, one a result."""
    return [result.id if result.image is None else result.image for result in results]
