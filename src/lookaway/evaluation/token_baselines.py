"""Random and uniform tokens at a policy's cost: what any choice of tokens must be better than.

A method that is not held beside random tokens proves nothing (UniPruneBench), and a question that uniform tokens answer
as well does not show what a policy keeps: VTC-Bench judges on those that downsampling cannot answer. Uniform tokens, a
regular grid of the visual tokens, stand for downsampling here, where a model's picture has one size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..core.record import Sample
from ..policies.keep_schedule import KeepSchedule
from .runner import PairedResult, evaluate_policy
from .scores import PairedScores
from .statistics import Estimate, share_interval

__all__ = ["NAMES", "equal_share", "hard_questions", "run_token_baselines"]

NAMES = {"random": "random tokens", "uniform": "uniform tokens"}
"""Ranking -> name of the variant in tables."""


def equal_share(results: Sequence[PairedResult], first_layer: int) -> float | None:
    """The share k of the visual tokens that a constant schedule keeps from `first_layer` on, at the policy's mean load.

    The mean load is the visual tokens that a layer processed, averaged over layers and samples with an image, as a
    share of the unpruned run's. None where there is no image, where the policy dropped nothing, or where the layers
    before `first_layer`, which see all tokens, cost more than the policy does.
    """
    seen = [result for result in results if result.initial_visual_tokens]
    if not seen:
        return None
    layers = seen[0].num_layers
    load = sum(sum(r.visual_tokens) / (layers * r.initial_visual_tokens) for r in seen) / len(seen)
    found = (layers * load - first_layer) / (layers - first_layer)
    return found if 0 <= found < 1 else None


def run_token_baselines(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    results: Sequence[PairedResult],
    *,
    first_layer: int = 1,
    batch_size: int = 8,
    max_new_tokens: int = 32,
    seed: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> dict[str, list[PairedResult]]:
    """Answer the same samples with random and with uniform tokens; the answers without a policy are not made again.

    Returns:
        Name of the variant -> one result a sample, in the order of `samples`; empty where `equal_share` has none.
    """
    share = equal_share(results, first_layer)
    if share is None:
        return {}
    without = {result.id: result.answer_without for result in results}
    layers = results[0].num_layers
    keep = [1.0] * first_layer + [share] * (layers - first_layer)
    return {
        name: evaluate_policy(
            model, processor, KeepSchedule(keep, ranking=ranking, seed=seed), samples, variant=name,
            batch_size=batch_size, max_new_tokens=max_new_tokens, without=without, progress=progress,
        )
        for ranking, name in NAMES.items()
    }  # fmt: skip


def hard_questions(
    results: Sequence[PairedResult], scores: PairedScores, uniform: PairedScores
) -> tuple[int, Estimate] | None:
    """How the policy does where uniform tokens are not enough: the full model scores, uniform tokens score less.

    Returns:
        The number of such questions, and the policy's mean score there as a share of the full model's, clustered by
        image; None where there is no such question.
    """
    images, kept = list[str](), list[float]()
    for result, full, score, low in zip(results, scores.without, scores.with_policy, uniform.with_policy, strict=True):
        if full is not None and score is not None and low is not None and low < full:
            images.append(result.id if result.image is None else result.image)
            kept.append(min(1.0, score / full))
    return (len(kept), share_interval(kept, images)) if kept else None
